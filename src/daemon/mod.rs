//! Puts the parts together: a controller, an agent, or both in one process. Construct everything, bind the
//! sockets, then run. Nothing is decided here.

mod agent;
mod cluster;
mod controller;
mod guard;
mod host;
mod identity;
mod journal;
mod notify;
mod pulse;
mod runtime;
mod seal;
#[cfg(test)]
mod tests;

pub use agent::{AgentService, start_agent};
pub use controller::{ControllerService, start_controller};
pub use identity::{Joined, join};
pub use notify::ServiceManager;
pub use runtime::has_image;

use crate::domain::command::{Error, ErrorKind};
use crate::telemetry::audit::AuditLog;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that SIGTERM and SIGINT cancel.
pub fn until_asked_to_end() -> Result<CancellationToken, Error> {
    let cancel = CancellationToken::new();
    let listening = |error| Error::internal(format!("listening for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(listening)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listening)?;
    let asked = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = asked.cancelled() => {}
        }
        asked.cancel();
    });
    Ok(cancel)
}

/// The audit log of a daemon with this state directory.
fn audit_log(data_dir: &Path) -> Result<AuditLog, Error> {
    AuditLog::open(data_dir)
        .map_err(|error| Error::unavailable(format!("opening the audit log in {}: {error}", data_dir.display())))
}

/// From here on no core file of this process is written, and its memory can be read by root alone: what it knows of jobs
/// is in it. Not where an account other than root runs tasks: those would lose what `/proc` lets them say of themselves.
pub fn keep_out_of_dumps(runs_tasks: bool) {
    if (!runs_tasks || nix::unistd::Uid::effective().is_root())
        && let Err(error) = nix::sys::prctl::set_dumpable(false)
    {
        tracing::warn!(%error, "a core file of this process would hold the secrets of jobs");
    }
}

/// Makes a folder for state with these rights, whatever the umask says. One that is there keeps the rights that
/// somebody gave it. Folders above it that are missing can be passed through by everybody.
pub(crate) fn make_state_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
    let missing: Vec<&Path> = missing.collect();
    for folder in missing.into_iter().rev() {
        let mode = if folder == path { mode } else { 0o755 };
        make_folder(folder, mode).map_err(|error| {
            Error::new(ErrorKind::Refused, format!("making the folder {}: {error}", folder.display()))
        })?;
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}
