//! Listens to the devices: a thread and an event set for each, so that a sick one keeps no other from being heard.

use super::super::wire;
use super::errors::is_lost;
use crate::domain::ids::GpuUuid;
use crate::gpu::events::{EventKind, GpuEvent, Unwatched};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper_sys::bindings::{
    nvmlEventData_t, nvmlEventSet_t, nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND as FUNCTION_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};
use std::ffi::c_uint;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the driver is listened to at a time. An event ends the wait.
const WAIT_MS: c_uint = 1000;
/// Before a device that cannot be listened to is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What the driver says where it knows no instance.
const NO_INSTANCE: u32 = u32::MAX;

type Listener = Arc<Mutex<UnixStream>>;

/// Begins to listen; what is heard goes to the socket. The threads end with the process.
pub(super) fn start(nvml: &Arc<Nvml>, devices: u32, socket: UnixStream) -> io::Result<()> {
    let listener = Arc::new(Mutex::new(socket));
    for index in 0..devices {
        let (nvml, listener) = (Arc::clone(nvml), Arc::clone(&listener));
        let watch = move || drop(watch(&nvml, index, &listener));
        std::thread::Builder::new().name(format!("watch-{index}")).spawn(watch)?;
    }
    Ok(())
}

fn tell(listener: &Listener, event: &GpuEvent) -> io::Result<()> {
    wire::write(&mut *listener.lock().unwrap_or_else(PoisonError::into_inner), event)
}

/// An error: nobody hears it.
fn watch(nvml: &Nvml, index: u32, listener: &Listener) -> io::Result<()> {
    let mut said = None;
    loop {
        let unwatched = match Watch::register(nvml, index) {
            Ok(watch) => {
                said = None;
                let (gpu, types) = (watch.gpu.clone(), watch.types);
                tell(listener, &GpuEvent::Watching { index, gpu, types })?;
                watch.listen(listener)?
            }
            Err(unwatched) => unwatched,
        };
        if said.as_ref() != Some(&unwatched) {
            tell(listener, &unwatched)?;
            said = Some(unwatched.clone());
        }
        if matches!(unwatched, GpuEvent::Unwatched { why: Unwatched::NotSupported, .. }) {
            return Ok(());
        }
        std::thread::park_timeout(RETRY);
    }
}

/// One device with an event set of its own.
struct Watch<'a> {
    nvml: &'a Nvml,
    index: u32,
    gpu: GpuUuid,
    types: u64,
    set: nvmlEventSet_t,
}

impl<'a> Watch<'a> {
    fn register(nvml: &'a Nvml, index: u32) -> Result<Self, GpuEvent> {
        let failed = |gpu: Option<&GpuUuid>, what: &str, error: NvmlError| unwatched(index, gpu, what, &error);
        let device = nvml.device_by_index(index).map_err(|error| failed(None, "for its handle", error))?;
        let gpu = GpuUuid(device.uuid().map_err(|error| failed(None, "for its UUID", error))?);
        let lib = nvml.lib();
        let supported = function(&lib.nvmlDeviceGetSupportedEventTypes).and_then(|get| {
            let mut types = 0;
            // SAFETY: the function and the handle are of one library, and `types` lives through the call.
            nvml_try(unsafe { get(device.handle(), &raw mut types) }).map(|()| types)
        });
        let types = supported.map_err(|error| failed(Some(&gpu), "what events it has", error))? & EventKind::mask();
        if types == 0 {
            return Err(failed(Some(&gpu), "what events it has", NvmlError::NotSupported));
        }
        let mut set = std::ptr::null_mut();
        let created = function(&lib.nvmlEventSetCreate).and_then(|create| {
            // SAFETY: `set` lives through the call.
            nvml_try(unsafe { create(&raw mut set) })
        });
        created.map_err(|error| failed(Some(&gpu), "for an event set", error))?;
        // From here on the set is freed whatever happens.
        let watch = Self { nvml, index, gpu, types, set };
        let registered = function(&lib.nvmlDeviceRegisterEvents).and_then(|register| {
            // SAFETY: the function, the handle and the set are of one library.
            nvml_try(unsafe { register(device.handle(), types, watch.set) })
        });
        match registered {
            Ok(()) => Ok(watch),
            Err(error) => Err(failed(Some(&watch.gpu), "to tell of events", error)),
        }
    }

    /// Until that fails; says how. An error: nobody hears it.
    fn listen(&self, listener: &Listener) -> io::Result<GpuEvent> {
        loop {
            let mut data = nvmlEventData_t {
                device: std::ptr::null_mut(),
                eventType: 0,
                eventData: 0,
                gpuInstanceId: NO_INSTANCE,
                computeInstanceId: NO_INSTANCE,
            };
            match self.wait(&mut data) {
                SUCCESS => tell(listener, &self.happened(&data))?,
                TIMEOUT => {}
                code => {
                    let error = nvml_try(code).err().unwrap_or(NvmlError::Unknown);
                    return Ok(unwatched(self.index, Some(&self.gpu), "for events", &error));
                }
            }
        }
    }

    fn wait(&self, data: &mut nvmlEventData_t) -> nvmlReturn_t {
        let Ok(wait) = self.nvml.lib().nvmlEventSetWait_v2.as_ref() else { return FUNCTION_NOT_FOUND };
        // SAFETY: the function and the set are of one library, and `data` lives through the call.
        unsafe { wait(self.set, data, WAIT_MS) }
    }

    fn happened(&self, data: &nvmlEventData_t) -> GpuEvent {
        let instance = |id: u32| (id != NO_INSTANCE).then_some(id);
        GpuEvent::Happened {
            index: self.index,
            gpu: self.gpu.clone(),
            kind: EventKind::of_bit(data.eventType),
            data: data.eventData,
            gpu_instance: instance(data.gpuInstanceId),
            compute_instance: instance(data.computeInstanceId),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Ok(free) = self.nvml.lib().nvmlEventSetFree.as_ref() {
            // SAFETY: the function and the set are of one library, and nobody has the set any more.
            unsafe { free(self.set) };
        }
    }
}

/// What an older driver lacks is an error like that of a device that cannot.
fn function<F, E>(loaded: &Result<F, E>) -> Result<&F, NvmlError> {
    loaded.as_ref().map_err(|_| NvmlError::FunctionNotFound)
}

fn unwatched(index: u32, gpu: Option<&GpuUuid>, what: &str, error: &NvmlError) -> GpuEvent {
    let why = match error {
        error if is_lost(error) => Unwatched::Lost,
        NvmlError::NotSupported | NvmlError::FunctionNotFound => Unwatched::NotSupported,
        _ => Unwatched::Failed,
    };
    GpuEvent::Unwatched { index, gpu: gpu.cloned(), why, sentence: format!("asking GPU {index} {what}: {error}") }
}
