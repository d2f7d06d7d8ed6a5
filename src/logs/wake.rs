//! Waits for a change in a task's log folder, by inotify, also when the folder does not exist yet.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Looks again after this long even if nothing was heard: an event may be lost with a folder that was replaced.
const RECHECK: Duration = Duration::from_secs(1);
/// Without inotify (the kernel's number of instances is limited) it is looked at this often.
const RECHECK_WITHOUT_INOTIFY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Wake {
    dir: PathBuf,
    inotify: Option<AsyncFd<Shared>>,
    /// The folder itself is watched, not only an ancestor of it.
    on_dir: bool,
}

/// Shared with the blocking thread that adds watches.
#[derive(Debug, Clone)]
struct Shared(Arc<Inotify>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Wake {
    pub(super) fn new(dir: &Path) -> Self {
        let inotify = open_inotify()
            .inspect_err(|error| tracing::debug!(%error, "no inotify for following a log; looking at it instead"))
            .ok();
        Self { dir: dir.to_owned(), inotify, on_dir: false }
    }

    /// Watches the folder, or its nearest ancestor that exists. To be called before the folder is read, so that
    /// no change falls between.
    pub(super) async fn arm(&mut self) {
        if self.on_dir {
            return;
        }
        let Some(inotify) = &self.inotify else {
            return;
        };
        let (inotify, dir) = (inotify.get_ref().clone(), self.dir.clone());
        let watched = super::follow::blocking(move || Ok(watch_nearest(&inotify.0, &dir))).await;
        self.on_dir = watched.unwrap_or(false);
    }

    /// Returns at the next change, or when it is time to look again. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let Some(inotify) = &self.inotify else {
            return tokio::time::sleep(RECHECK_WITHOUT_INOTIFY).await;
        };
        let mut on_dir = self.on_dir;
        let heard = async {
            let Ok(mut guard) = inotify.readable().await else {
                return std::future::pending().await;
            };
            while let Ok(events) = guard.get_inner().0.read_events() {
                let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
                on_dir &= !events.iter().any(|event| event.mask.intersects(gone));
            }
            guard.clear_ready();
        };
        // The time being up is no error: the caller looks again.
        let _ = tokio::time::timeout(RECHECK, heard).await;
        self.on_dir = on_dir;
    }
}

fn open_inotify() -> std::io::Result<AsyncFd<Shared>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // SAFETY: the `Inotify` in the `Arc` owns one descriptor and never exchanges it, and the registered `Shared`
    // keeps that `Arc` alive until after it is deregistered.
    let registered = unsafe { AsyncFd::register_with_interest(Shared(Arc::new(inotify)), Interest::READABLE) };
    Ok(registered?)
}

/// True if the folder itself is watched now.
fn watch_nearest(inotify: &Inotify, dir: &Path) -> bool {
    let content = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let children = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
    if inotify.add_watch(dir, content).is_ok() {
        return true;
    }
    for ancestor in dir.ancestors().skip(1) {
        if inotify.add_watch(ancestor, children).is_ok() {
            break;
        }
    }
    // It may have been made after the first try and before the ancestor was watched.
    inotify.add_watch(dir, content).is_ok()
}
