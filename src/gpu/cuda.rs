//! A test of one GPU's memory through CUDA's driver library, in a process of its own: `wharf gpu-deep-check`.
//!
//! The library is loaded when it is asked for, and its few functions are called as they are. Names and numbers are those of
//! `cuda.h`, whose functions keep their meaning by the versions in their names. Never called by the agent itself: a device
//! that is ill may end or hang the process.

use crate::domain::checked::{DeepCheck, MemoryLook};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// `CUdeviceptr`.
type DevicePointer = u64;
/// `CUresult`.
type Status = c_int;

const SUCCESS: Status = 0;
const OUT_OF_MEMORY: Status = 2;
const LIBRARY: &CStr = c"libcuda.so.1";
/// Every bit is written as 0 and as 1.
const PATTERNS: [u32; 2] = [0x5555_aaaa, 0xaaaa_5555];
/// One piece of memory.
const PIECE_BYTES: usize = 64 << 20;
/// Of what is free; the rest is for the library's own needs.
const PART_PERCENT: usize = 90;
/// When no other piece is begun.
const LONG_ENOUGH: Duration = Duration::from_secs(30);
const ROUNDS: u32 = 8;

/// The functions of the library that are needed, each with its name there and what it takes.
macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),*);)*) => {
        struct Cuda {
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Cuda {
            fn of(library: *mut c_void) -> Result<Self, Stop> {
                Ok(Self {
                    $($field: {
                        let found = find(library, $name)?;
                        // SAFETY: cuda.h declares this function with these parameters and this result.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Status>(found)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    init = c"cuInit" (c_uint);
    error_name = c"cuGetErrorName" (Status, *mut *const c_char);
    device = c"cuDeviceGet" (*mut c_int, c_int);
    retain = c"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    set_current = c"cuCtxSetCurrent" (*mut c_void);
    memory = c"cuMemGetInfo_v2" (*mut usize, *mut usize);
    allocate = c"cuMemAlloc_v2" (*mut DevicePointer, usize);
    allocate_host = c"cuMemAllocHost_v2" (*mut *mut c_void, usize);
    fill = c"cuMemsetD32_v2" (DevicePointer, c_uint, usize);
    to_device = c"cuMemcpyHtoD_v2" (DevicePointer, *const c_void, usize);
    from_device = c"cuMemcpyDtoH_v2" (*mut c_void, DevicePointer, usize);
    within = c"cuMemcpyDtoD_v2" (DevicePointer, DevicePointer, usize);
    wait = c"cuCtxSynchronize" ();
}

/// Why there is no result.
enum Stop {
    NotPossible(String),
    Broken(String),
}

/// Tests the first device that CUDA shows.
pub fn deep_check() -> DeepCheck {
    match Cuda::load().and_then(|cuda| look(&cuda)) {
        Ok(look) => DeepCheck::Looked(look),
        Err(Stop::NotPossible(why)) => DeepCheck::NotPossible(why),
        Err(Stop::Broken(why)) => DeepCheck::Broken(why),
    }
}

impl Cuda {
    fn load() -> Result<Self, Stop> {
        // SAFETY: the name ends with a zero byte. The library's initialisers are the driver's own.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(Stop::NotPossible(format!("there is no CUDA driver here: {}", loader_error())));
        }
        Self::of(library)
    }

    fn name_of(&self, status: Status) -> String {
        let mut name = std::ptr::null();
        // SAFETY: the pointer is ours to write to; what it is set to is a constant of the library's.
        let text = unsafe {
            (self.error_name)(status, &raw mut name);
            if name.is_null() { None } else { Some(CStr::from_ptr(name)) }
        };
        text.map_or_else(|| format!("error {status}"), |text| text.to_string_lossy().into_owned())
    }

    /// Something that every driver with a device can do, before the device itself has to do anything.
    fn prepared(&self, what: &str, status: Status) -> Result<(), Stop> {
        if status == SUCCESS { Ok(()) } else { Err(Stop::NotPossible(format!("{what}: {}", self.name_of(status)))) }
    }

    /// Something that only the device itself can fail to do.
    fn done(&self, what: &str, status: Status) -> Result<(), Stop> {
        if status == SUCCESS { Ok(()) } else { Err(Stop::Broken(format!("{what}: {}", self.name_of(status)))) }
    }
}

fn find(library: *mut c_void, name: &CStr) -> Result<*mut c_void, Stop> {
    // SAFETY: the library is open and stays so; the name ends with a zero byte.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    let missing = || Stop::NotPossible(format!("the CUDA driver has no {}", name.to_string_lossy()));
    if found.is_null() { Err(missing()) } else { Ok(found) }
}

fn loader_error() -> String {
    // SAFETY: the text belongs to the loader and lives until the next call of this thread.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    text.unwrap_or_else(|| format!("{} cannot be loaded", LIBRARY.to_string_lossy()))
}

/// A piece of the machine's memory that the device reaches by itself.
struct HostPiece {
    start: *mut u32,
    words: usize,
}

impl HostPiece {
    fn words(&mut self) -> &mut [u32] {
        // SAFETY: the library gave this many bytes, aligned to a page, and they are never given back before the end of the
        // process; copies of the device are over before anybody asks.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.words) }
    }
}

fn look(cuda: &Cuda) -> Result<MemoryLook, Stop> {
    let (mut device, mut context) = (0, null_mut());
    let (mut free, mut total) = (0, 0);
    // SAFETY: all pointers are to variables of ours.
    unsafe {
        cuda.prepared("cuInit", (cuda.init)(0))?;
        cuda.prepared("cuDeviceGet", (cuda.device)(&raw mut device, 0))?;
        cuda.done("cuDevicePrimaryCtxRetain", (cuda.retain)(&raw mut context, device))?;
        cuda.done("cuCtxSetCurrent", (cuda.set_current)(context))?;
        cuda.done("cuMemGetInfo", (cuda.memory)(&raw mut free, &raw mut total))?;
    }
    let pieces = allocate(cuda, free / 100 * PART_PERCENT / PIECE_BYTES)?;
    let mut host = null_mut();
    // SAFETY: the pointer is to a variable of ours.
    cuda.prepared("cuMemAllocHost", unsafe { (cuda.allocate_host)(&raw mut host, PIECE_BYTES) })?;
    let mut host = HostPiece { start: host.cast(), words: PIECE_BYTES / 4 };
    let begun = Instant::now();
    let (mut memory_mb, mut wrong_words) = (0, 0);
    for piece in &pieces {
        if begun.elapsed() > LONG_ENOUGH {
            break;
        }
        for pattern in PATTERNS {
            wrong_words += write_and_read(cuda, *piece, pattern, &mut host)?;
        }
        memory_mb += (PIECE_BYTES >> 20) as u64;
    }
    let look = MemoryLook { memory_mb, wrong_words, ..MemoryLook::default() };
    speeds(cuda, &pieces, &host, look)
}

/// As many pieces as there are to be had, up to `most`.
fn allocate(cuda: &Cuda, most: usize) -> Result<Vec<DevicePointer>, Stop> {
    let mut pieces = Vec::new();
    while pieces.len() < most {
        let mut piece = 0;
        // SAFETY: the pointer is to a variable of ours.
        match unsafe { (cuda.allocate)(&raw mut piece, PIECE_BYTES) } {
            SUCCESS => pieces.push(piece),
            OUT_OF_MEMORY => break,
            status => cuda.done("cuMemAlloc", status)?,
        }
    }
    if pieces.is_empty() {
        return Err(Stop::NotPossible("there is not enough free memory on the GPU".to_owned()));
    }
    Ok(pieces)
}

/// How many words came back other than they were written.
fn write_and_read(cuda: &Cuda, piece: DevicePointer, pattern: u32, host: &mut HostPiece) -> Result<u64, Stop> {
    // What an earlier copy left must not pass for this one's.
    host.words().fill(!pattern);
    // SAFETY: both pieces have that many bytes, and nobody else uses them.
    unsafe {
        cuda.done("cuMemsetD32", (cuda.fill)(piece, pattern, PIECE_BYTES / 4))?;
        cuda.done("cuMemcpyDtoH", (cuda.from_device)(host.start.cast(), piece, PIECE_BYTES))?;
        cuda.done("cuCtxSynchronize", (cuda.wait)())?;
    }
    Ok(host.words().iter().filter(|word| **word != pattern).count() as u64)
}

fn speeds(cuda: &Cuda, pieces: &[DevicePointer], host: &HostPiece, mut look: MemoryLook) -> Result<MemoryLook, Stop> {
    let (first, second) = (pieces[0], pieces.get(1).copied());
    let write = || {
        // SAFETY: both pieces have that many bytes, and nobody else uses them.
        unsafe { (cuda.to_device)(first, host.start.cast(), PIECE_BYTES) }
    };
    look.to_device_mb_s = speed(cuda, "cuMemcpyHtoD", write)?;
    let read = || {
        // SAFETY: the same.
        unsafe { (cuda.from_device)(host.start.cast(), first, PIECE_BYTES) }
    };
    look.from_device_mb_s = speed(cuda, "cuMemcpyDtoH", read)?;
    if let Some(second) = second {
        let copy = || {
            // SAFETY: the same.
            unsafe { (cuda.within)(second, first, PIECE_BYTES) }
        };
        look.within_device_mb_s = speed(cuda, "cuMemcpyDtoD", copy)?;
    }
    Ok(look)
}

/// MB/s over some copies of a piece.
fn speed(cuda: &Cuda, what: &str, copy: impl Fn() -> Status) -> Result<u64, Stop> {
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        cuda.done(what, copy())?;
    }
    // SAFETY: it takes nothing.
    cuda.done("cuCtxSynchronize", unsafe { (cuda.wait)() })?;
    let bytes = PIECE_BYTES as u128 * u128::from(ROUNDS);
    Ok(u64::try_from(bytes / begun.elapsed().as_micros().max(1)).unwrap_or(u64::MAX))
}
