//! Our own standard output: writing it, and knowing when nobody reads it any more.

use super::exit_code::OK;
use super::fail::Failure;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Writes and flushes, so that a broken pipe is noticed here.
pub fn write_all(bytes: &[u8]) -> Result<u8, Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(OK)
}

/// Ends once whoever reads our output has gone: a stream that waits for its next record would not notice. Never ends
/// for a file or a terminal.
pub async fn reader_gone() {
    if watch_reader().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn watch_reader() -> io::Result<()> {
    let stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if !stdout.metadata()?.file_type().is_fifo() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the file owns its descriptor, is moved in, and nothing here takes it out or closes it.
    let stdout = unsafe { AsyncFd::register_with_interest(stdout, Interest::ERROR) }?;
    loop {
        let mut ready = stdout.ready(Interest::ERROR).await?;
        if ready.ready().is_error() {
            return Ok(());
        }
        ready.clear_ready();
    }
}

/// What a command says that waits for an end longer than anybody may read: the first failure is kept, and after it
/// nothing more is written.
#[derive(Debug, Default)]
pub struct Muted {
    failed: Option<io::Error>,
}

impl Muted {
    /// Takes note of a failure to write; everything else passes.
    pub fn note(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(Failure::Output(error)) => {
                self.failed.get_or_insert(error);
                Ok(())
            }
            other => other,
        }
    }

    /// Something could not be written that somebody still wanted: not a pipe that was closed.
    pub fn lost(&self) -> Option<&io::Error> {
        self.failed.as_ref().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::Error;

    #[test]
    fn a_closed_pipe_is_borne_and_a_full_disk_remembered() {
        let mut muted = Muted::default();
        assert!(muted.note(Err(Failure::Output(io::ErrorKind::BrokenPipe.into()))).is_ok());
        assert!(muted.lost().is_none());
        let mut muted = Muted::default();
        assert!(muted.note(Err(Failure::Output(io::ErrorKind::StorageFull.into()))).is_ok());
        assert!(muted.lost().is_some());
        assert!(muted.note(Err(Failure::Error(Error::internal("x")))).is_err());
    }
}
