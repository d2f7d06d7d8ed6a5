//! Tells the service manager how a daemon is: that it is ready, one line on what it does, that it lives, that it ends.
//! Does nothing where no service manager has started us.
//!
//! A sign of life is sent only after the daemon's own core has answered a question through its own channel. A timer
//! that runs by itself would go on while the core hangs, and the watchdog would watch the timer.

use crate::domain::command::Error;
use sd_notify::NotifyState;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How old the status line gets at most, where the watchdog does not ask for more.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// For handing one message to the manager: its socket can be full.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

type Send = dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + std::marker::Send + Sync;

/// The service manager that has started this process.
#[derive(Clone)]
pub struct ServiceManager {
    /// It ends us after so long without a sign of life.
    watchdog: Option<Duration>,
    send: Arc<Send>,
}

impl fmt::Debug for ServiceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceManager").field("watchdog", &self.watchdog).finish_non_exhaustive()
    }
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say; `None` without them.
    pub fn from_environment() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        Some(Self { watchdog, send: Arc::new(sd_notify::notify) })
    }

    /// Between two questions to the core.
    fn period(&self) -> Duration {
        self.watchdog.map_or(STATUS_PERIOD, |interval| (interval / 2).min(STATUS_PERIOD))
    }

    /// A missing answer is noticed, and the question repeated, before the watchdog barks.
    fn deadline(&self) -> Duration {
        self.watchdog.map_or(STATUS_PERIOD, |interval| interval / 4)
    }

    async fn alive(&self, status: &str, first: bool) {
        let status = status.replace('\n', " ");
        self.tell(move |send| {
            let mut states = Vec::with_capacity(3);
            if first {
                states.push(NotifyState::Ready);
            }
            states.extend([NotifyState::Status(&status), NotifyState::Watchdog]);
            send(&states)
        })
        .await;
    }

    async fn trouble(&self, error: &Error) {
        let status = error.to_string().replace('\n', " ");
        self.tell(move |send| send(&[NotifyState::Status(&status)])).await;
    }

    async fn stopping(&self) {
        self.tell(|send| send(&[NotifyState::Stopping, NotifyState::Status("ending")])).await;
    }

    /// Not on this thread, and not for ever: the manager may be slow to read.
    async fn tell(&self, message: impl FnOnce(&Send) -> io::Result<()> + std::marker::Send + 'static) {
        let send = self.send.clone();
        let sending = tokio::task::spawn_blocking(move || message(&*send));
        let failed = match tokio::time::timeout(SEND_DEADLINE, sending).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not taken within {} s", SEND_DEADLINE.as_secs()),
        };
        tracing::warn!(failed, "telling the service manager");
    }
}

/// Keeps the manager informed until `until`: ready with the first answer of `look`, alive with each. `look` asks the
/// core for a line on what it does.
pub async fn keep_informed<L, F>(manager: Option<ServiceManager>, look: L, until: CancellationToken)
where
    L: Fn() -> F,
    F: Future<Output = Result<String, Error>>,
{
    let Some(manager) = manager else { return until.cancelled().await };
    let mut first = true;
    loop {
        let answer = tokio::select! {
            biased;
            () = until.cancelled() => break,
            answer = tokio::time::timeout(manager.deadline(), look()) => answer,
        };
        let pause = match answer.unwrap_or_else(|_| Err(silent(manager.deadline()))) {
            Ok(status) => {
                manager.alive(&status, first).await;
                first = false;
                manager.period()
            }
            Err(error) => {
                tracing::warn!(%error, "no sign of life for the service manager");
                manager.trouble(&error).await;
                manager.period() / 8
            }
        };
        tokio::select! {
            biased;
            () = until.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    manager.stopping().await;
}

fn silent(deadline: Duration) -> Error {
    Error::internal(format!("the daemon's own core has not answered within {} ms", deadline.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::mpsc;

    /// A manager that hands on what it is told, one string a message.
    fn manager(watchdog: Duration) -> (Option<ServiceManager>, mpsc::UnboundedReceiver<String>) {
        let (told, hear) = mpsc::unbounded_channel();
        let send = move |states: &[NotifyState<'_>]| {
            let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
            told.send(lines.join("\n")).map_err(io::Error::other)
        };
        (Some(ServiceManager { watchdog: Some(watchdog), send: Arc::new(send) }), hear)
    }

    async fn next(hear: &mut mpsc::UnboundedReceiver<String>) -> String {
        tokio::time::timeout(Duration::from_secs(30), hear.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn ready_comes_once_then_signs_of_life_then_the_end() {
        let (manager, mut hear) = manager(Duration::from_millis(200));
        let until = CancellationToken::new();
        let look = || async { Ok("3 tasks\nof 4".to_owned()) };
        let informing = tokio::spawn(keep_informed(manager, look, until.clone()));
        assert_eq!(next(&mut hear).await, "READY=1\nSTATUS=3 tasks of 4\nWATCHDOG=1");
        assert_eq!(next(&mut hear).await, "STATUS=3 tasks of 4\nWATCHDOG=1");
        until.cancel();
        informing.await.unwrap();
        let mut last = String::new();
        while let Some(message) = hear.recv().await {
            last = message;
        }
        assert_eq!(last, "STOPPING=1\nSTATUS=ending");
    }

    #[tokio::test]
    async fn a_core_that_hangs_or_fails_gives_no_sign_of_life() {
        let (manager, mut hear) = manager(Duration::from_millis(80));
        let until = CancellationToken::new();
        let hangs = Arc::new(AtomicBool::new(true));
        let answers = hangs.clone();
        let look = move || {
            let hangs = answers.load(Ordering::SeqCst);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok("well".to_owned())
            }
        };
        let informing = tokio::spawn(keep_informed(manager, look, until.clone()));
        for _ in 0..3 {
            let message = next(&mut hear).await;
            assert!(message.starts_with("STATUS=") && message.contains("has not answered"), "{message}");
            assert!(!message.contains("WATCHDOG") && !message.contains("READY"), "{message}");
        }
        hangs.store(false, Ordering::SeqCst);
        while !next(&mut hear).await.starts_with("READY=1") {}
        until.cancel();
        informing.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_manager_nobody_is_asked() {
        let until = CancellationToken::new();
        let never = || async { Err(Error::internal("asked")) };
        let informing = tokio::spawn(keep_informed(None, never, until.clone()));
        until.cancel();
        informing.await.unwrap();
    }
}
