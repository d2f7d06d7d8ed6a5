//! What ends a command before it is done.

use super::exit_code::INTERRUPTED;
use super::fail::Failure;
use tokio::signal::unix::{SignalKind, signal};

/// Ends with the failure to return when somebody asks us to go: Ctrl-C, SIGTERM, or a terminal that was closed.
pub async fn interrupted() -> Failure {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Without a handler the signal ends us by itself.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
    Failure::Silent(INTERRUPTED)
}
