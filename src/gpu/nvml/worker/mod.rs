//! The worker process: `wharf gpu-worker`. Loads NVML and answers questions on its standard input, a socket, until
//! that is closed. It may hang, crash and be killed at any time; nothing of it is ever waited for.

mod device;
mod device_node;
mod errors;
mod health;
mod links;
mod mig;
mod processes;
mod readings;
mod sample;
mod sysfs;
mod watch;

use super::wire::{Answer, Failure, FailureKind, Opened, Question, read, write};
use crate::domain::gpu::{DriverState, GpuDriver};
use errors::{Asked, optional};
use nvml_wrapper::Nvml;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Answers until the supervisor closes its end.
pub fn run() -> io::Result<()> {
    // The supervisor's thread ends with its process; the socket's end says so too, but not to a call that hangs.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    nix::sys::prctl::set_name(c"wharf-gpu")?;
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr().map_err(|_| io::Error::other("standard input is no socket: only the agent starts this"))?;
    let Some(Question::Open { library, root, listens }) = read(&mut stream)? else {
        return Err(io::Error::other("the first question is not Open"));
    };
    let events = if listens { Some(take_output()?) } else { None };
    let (worker, opened) = match open(library, root) {
        Ok((worker, opened)) => (Some(worker), Answer::Opened(opened)),
        Err(failure) => (None, Answer::Failed(failure)),
    };
    write(&mut stream, &opened)?;
    let Some(worker) = worker else { return Ok(()) };
    if let Some(events) = events {
        watch::start(&worker.nvml, worker.devices, events)?;
    }
    while let Some(question) = read(&mut stream)? {
        write(&mut stream, &worker.answer(&question).unwrap_or_else(Answer::Failed))?;
    }
    Ok(())
}

/// The socket for events, which nothing else may write to: libraries print what they like.
fn take_output() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)?;
    Ok(socket)
}

struct Worker {
    nvml: Arc<Nvml>,
    root: PathBuf,
    /// How many the driver showed.
    devices: u32,
}

fn open(library: Option<PathBuf>, root: PathBuf) -> Result<(Worker, Opened), Failure> {
    let name = library.map_or_else(|| OsString::from("libnvidia-ml.so.1"), PathBuf::into_os_string);
    let nvml = Nvml::builder().lib_path(&name).init().map_err(|error| errors::of_open(&name, &root, &error))?;
    let asked = |what| move |error| errors::of_driver(what, DriverState::Failed, &error);
    let driver = GpuDriver {
        state: DriverState::Ok,
        driver_version: optional(nvml.sys_driver_version()).map_err(asked("the driver's version"))?,
        cuda_version: optional(nvml.sys_cuda_driver_version())
            .map_err(asked("the CUDA version"))?
            // 12020 is 12.2.
            .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
        nvml_version: optional(nvml.sys_nvml_version()).map_err(asked("NVML's version"))?,
        sentence: None,
    };
    let devices = nvml.device_count().map_err(asked("the number of devices"))?;
    Ok((Worker { nvml: Arc::new(nvml), root, devices }, Opened { driver, devices }))
}

impl Worker {
    fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        match question {
            Question::Open { .. } => {
                let sentence = "the GPU worker was opened twice".to_owned();
                Err(Failure { kind: FailureKind::Driver(DriverState::Failed), sentence })
            }
            Question::Device { index } => self.device(*index).map(Answer::Device),
            Question::Links { index, others } => self.links(*index, others).map(Answer::Links),
            Question::Sample { index } => self.sample(*index).map(Answer::Sample),
            Question::Processes { index } => self.processes(*index).map(Answer::Processes),
            Question::Check { index } => {
                let (health, node) = (Box::new(self.health(*index)?), self.device_node(*index)?);
                Ok(Answer::Checked { health, node })
            }
            Question::Health { index } => self.health(*index).map(|health| Answer::Health(Box::new(health))),
        }
    }

    fn handle(&self, index: u32) -> Result<nvml_wrapper::Device<'_>, Failure> {
        self.nvml.device_by_index(index).asked(index, "for its handle")
    }
}

/// The name that a person knows a library by.
fn shown(name: &OsStr) -> std::path::Display<'_> {
    Path::new(name).display()
}
