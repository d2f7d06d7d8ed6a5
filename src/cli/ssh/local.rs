//! The local ssh client.

use super::files::{Entry, Keys};
use crate::cli::args::SshArgs;
use crate::cli::exit_code::EXEC_TRANSPORT;
use crate::cli::fail::Failure;
use crate::cli::signals::Received;
use crate::domain::ssh::SshAccess;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use tokio::process::Command;

/// Where it is.
pub fn client() -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join("ssh")).find(runs)
}

/// Runs it on our terminal; its code.
pub async fn run(
    client: &PathBuf,
    keys: &Keys,
    access: &SshAccess,
    user: &str,
    entry: &Entry,
    args: &SshArgs,
) -> Result<u8, Failure> {
    let config = keys.put("config", &entry.text(access, user, keys)).map_err(Failure::Output)?;
    let mut command = Command::new(client);
    command.arg("-F").arg(config);
    if args.tty {
        command.arg("-t");
    }
    command.arg(&entry.host);
    if !args.command.is_empty() {
        command.arg("--").args(&args.command);
    }
    let mut signals = Received::watch().map_err(Failure::Output)?;
    let mut child = command.kill_on_drop(true).spawn().map_err(Failure::Output)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(Failure::Output)?;
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXEC_TRANSPORT));
            }
            // Keys reach it by themselves; what only we were sent does not.
            got = signals.next() => {
                if let (true, Some(pid)) = (got.ends_us, pid) {
                    kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
                }
            }
        }
    }
}
