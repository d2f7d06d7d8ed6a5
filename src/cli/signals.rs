//! What ends a command before it is done.

use super::exit_code::INTERRUPTED;
use super::fail::Failure;
use crate::api::stream::ExecSignal;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// One signal that we got, for a command elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Got {
    pub signal: ExecSignal,
    /// What we end with if it ends us: 128 and its number.
    pub code: u8,
    /// Whoever sent it wants us gone, and not only the command told.
    pub ends_us: bool,
}

/// The signals that end a program, as they come.
#[derive(Debug)]
pub struct Received {
    signals: [(Signal, Got); 4],
}

impl Received {
    pub fn watch() -> io::Result<Self> {
        let watch = |kind: SignalKind, name, ends_us| -> io::Result<(Signal, Got)> {
            let code = u8::try_from(128 + kind.as_raw_value()).unwrap_or(INTERRUPTED);
            Ok((signal(kind)?, Got { signal: name, code, ends_us }))
        };
        Ok(Self {
            signals: [
                watch(SignalKind::interrupt(), ExecSignal::Interrupt, false)?,
                watch(SignalKind::quit(), ExecSignal::Quit, false)?,
                watch(SignalKind::terminate(), ExecSignal::Terminate, true)?,
                watch(SignalKind::hangup(), ExecSignal::Hangup, true)?,
            ],
        })
    }

    /// The next one. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Got {
        let [(int, got_int), (quit, got_quit), (term, got_term), (hup, got_hup)] = &mut self.signals;
        tokio::select! {
            _ = int.recv() => *got_int,
            _ = quit.recv() => *got_quit,
            _ = term.recv() => *got_term,
            _ = hup.recv() => *got_hup,
        }
    }
}
