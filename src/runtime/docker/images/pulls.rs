//! Pulls that are under way, and who waits for them: one pull for all who want the same image with the same login.
//! A pull lives as long as somebody waits for it.

use super::error::ImageError;
use super::pull::{Puller, State};
use super::reference::Reference;
use crate::runtime::docker::credentials::Credentials;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What makes two pulls one. Logins are part of it: nobody gets an image by another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub image: Reference,
    pub login: Option<Credentials>,
}

#[derive(Debug)]
pub(super) struct Pulls {
    puller: Arc<Puller>,
    running: Arc<Mutex<HashMap<Key, Running>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Nothing outlives its owner.
    _cancel_on_drop: DropGuard,
}

#[derive(Debug)]
struct Running {
    /// Tells a pull from a later one of the same key.
    state: watch::Receiver<State>,
    waiting: usize,
    cancel: CancellationToken,
}

/// One who waits for a pull.
#[derive(Debug)]
pub(super) struct Ticket {
    key: Key,
    state: watch::Receiver<State>,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

fn lock(running: &Mutex<HashMap<Key, Running>>) -> MutexGuard<'_, HashMap<Key, Running>> {
    // The map is whole between any two statements.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    pub(super) fn new(puller: Puller) -> Self {
        let cancel = CancellationToken::new();
        Self {
            puller: Arc::new(puller),
            running: Arc::default(),
            tasks: TaskTracker::new(),
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// Waits for the pull of this key, starting it if there is none.
    pub(super) fn join(&self, key: Key) -> Ticket {
        let mut running = lock(&self.running);
        let entry = running.entry(key.clone()).or_insert_with(|| self.start(&key));
        entry.waiting += 1;
        Ticket { key, state: entry.state.clone(), running: self.running.clone() }
    }

    fn start(&self, key: &Key) -> Running {
        let cancel = self.cancel.child_token();
        let (told, state) = watch::channel(State::new(&key.image));
        let (puller, running, key) = (self.puller.clone(), self.running.clone(), key.clone());
        let (cancelled, own) = (cancel.clone(), state.clone());
        self.tasks.spawn(async move {
            let outcome = tokio::select! {
                outcome = puller.pull(&key.image, key.login.as_ref(), &told) => outcome,
                () = cancelled.cancelled() => Err(ImageError::Closed { image: key.image.to_string() }),
            };
            // Who comes from now on starts a pull of their own.
            forget(&running, &key, &own);
            told.send_modify(|state| state.outcome = Some(outcome));
        });
        Running { state, waiting: 0, cancel }
    }

    pub(super) async fn close(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn forget(running: &Mutex<HashMap<Key, Running>>, key: &Key, state: &watch::Receiver<State>) {
    let mut running = lock(running);
    if running.get(key).is_some_and(|entry| entry.state.same_channel(state)) {
        running.remove(key);
    }
}

impl Ticket {
    /// Passes on what the pull tells until it ends.
    pub(super) async fn wait(mut self, progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), ImageError> {
        let mut last = String::new();
        loop {
            let State { line, outcome } = self.state.borrow_and_update().clone();
            if line != last {
                progress(line.clone());
                last = line;
            }
            if let Some(outcome) = outcome {
                return outcome;
            }
            if self.state.changed().await.is_err() {
                let image = self.key.image.to_string();
                return Err(ImageError::engine("pulling", &image, "the pull ended without a word"));
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        let Some(entry) = running.get_mut(&self.key).filter(|entry| entry.state.same_channel(&self.state)) else {
            return;
        };
        entry.waiting -= 1;
        if entry.waiting == 0 {
            entry.cancel.cancel();
            running.remove(&self.key);
        }
    }
}
