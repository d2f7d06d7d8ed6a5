//! Looks at what jobs name on the node: folders, files and accounts, on disks and servers that may never answer. A look
//! that hangs cannot be called off, and its thread is lost until the kernel lets go of it. So there are only so many:
//! threads are left for everything that other tasks live by.

use super::Failure;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Of the 512 threads for blocking work.
const AT_ONCE: usize = 32;

/// Clones count together.
#[derive(Debug, Clone)]
pub struct Disks(Arc<Semaphore>);

impl Disks {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Does `look` on a thread for blocking work, for at most `limit`; `what` is for the error. What a look leaves that
    /// was given up must be found and taken back by its task's removal.
    pub async fn look<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        cancel: &CancellationToken,
        look: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let permits = self.0.clone();
        let work = async move {
            // Held by the thread: it is given back when that comes back.
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let look = move || {
                let _permit = permit;
                look()
            };
            tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
        };
        let late = || format!("{what} took longer than {} s: a disk or server of the node hangs", limit.as_secs());
        tokio::select! {
            () = cancel.cancelled() => Err(Failure::platform("cancelled while it was prepared")),
            done = tokio::time::timeout(limit, work) => done.unwrap_or_else(|_| Err(Failure::platform(late()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn looks_that_hang_cost_only_so_many_threads() {
        let (disks, never) = (Disks::new(), CancellationToken::new());
        let (let_go, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..AT_ONCE {
            let held = held.clone();
            // Until the sender is dropped.
            let hang = move || held.lock().unwrap().recv().map_err(|_| Failure::platform("let go"));
            let error = disks.look("looking", SOON, &never, hang).await.unwrap_err();
            assert!(error.message.contains("looking took longer"), "{}", error.message);
        }
        let refused = disks.look("the next look", SOON, &never, || -> Result<(), _> { panic!("not begun") }).await;
        assert!(refused.unwrap_err().message.contains("the next look took longer"));
        drop(let_go);
        assert_eq!(disks.look("one more", LONG, &never, || Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn whoever_gives_up_is_not_held_up() {
        let (disks, cancel) = (Disks::new(), CancellationToken::new());
        cancel.cancel();
        let (let_go, held) = mpsc::channel::<()>();
        let hang = move || held.recv().map_err(|_| Failure::platform("let go"));
        assert!(disks.look("looking", LONG, &cancel, hang).await.unwrap_err().message.contains("cancelled"));
        drop(let_go);
    }
}
