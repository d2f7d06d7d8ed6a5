//! Where reading goes on after a restart: a small file that is replaced whole.
//!
//! A thread of its own writes it: a disk that is slow or hangs must not keep a record from whoever waits for it.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::warn;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    boot_id: String,
    /// The first record that is not done.
    next: u64,
}

/// The first record of this boot that is not done; 0 where the file is of another boot, is missing or damaged.
pub(super) fn load(path: &Path, boot_id: &str) -> u64 {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return 0,
        Err(error) => {
            warn!(path = %path.display(), %error, "reading where the kernel's log was left; it is read from its start");
            return 0;
        }
    };
    match serde_json::from_slice::<Saved>(&text) {
        Ok(saved) if saved.boot_id == boot_id => saved.next,
        Ok(_) => 0,
        Err(error) => {
            warn!(path = %path.display(), %error, "where the kernel's log was left is unclear; it is read from its start");
            0
        }
    }
}

/// It is there whole or not at all, also after a crash of the machine.
fn save(path: &Path, saved: &Saved) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

#[derive(Debug, Default)]
struct Progress {
    /// 0: nothing was done in this life.
    next: u64,
    has_ended: bool,
}

/// What is done, and the thread that writes it down.
#[derive(Debug)]
pub(super) struct Cursor {
    progress: Arc<(Mutex<Progress>, Condvar)>,
    /// Ends with the thread.
    written: Option<oneshot::Receiver<()>>,
}

impl Cursor {
    /// Written at most once in `interval`, and at the end.
    pub(super) fn start(path: PathBuf, boot_id: String, interval: Duration) -> io::Result<Self> {
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let (done, written) = oneshot::channel();
        let shared = Arc::clone(&progress);
        let write = move |next| {
            let saved = Saved { boot_id: boot_id.clone(), next };
            save(&path, &saved).map_err(|error| format!("{}: {error}", path.display()))
        };
        std::thread::Builder::new().name("kernel-cursor".to_owned()).spawn(move || {
            keep(&shared, interval, write);
            drop(done);
        })?;
        Ok(Self { progress, written: Some(written) })
    }

    /// Everything up to and with this record needs not be told again.
    pub(super) fn done(&self, sequence: u64) {
        let mut progress = lock(&self.progress.0);
        progress.next = progress.next.max(sequence.saturating_add(1));
        self.progress.1.notify_one();
    }

    /// Writes the last one; ends when that is done.
    pub(super) async fn close(mut self) {
        let written = self.written.take();
        drop(self);
        if let Some(written) = written {
            let _ = written.await;
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        lock(&self.progress.0).has_ended = true;
        self.progress.1.notify_one();
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(
    (progress, changed): &(Mutex<Progress>, Condvar),
    interval: Duration,
    write: impl Fn(u64) -> Result<(), String>,
) {
    let (mut written, mut complained) = (0, None);
    loop {
        let waiting = changed.wait_while(lock(progress), |now| now.next == written && !now.has_ended);
        let (next, has_ended) = {
            let now = waiting.unwrap_or_else(PoisonError::into_inner);
            (now.next, now.has_ended)
        };
        if next != written {
            match write(next) {
                Ok(()) => (written, complained) = (next, None),
                Err(error) => {
                    if complained.as_ref() != Some(&error) {
                        warn!(
                            error,
                            "writing where the kernel's log was read to; a restart tells some records again"
                        );
                    }
                    complained = Some(error);
                }
            }
        }
        if has_ended {
            return;
        }
        let end = Instant::now() + interval;
        let mut now = lock(progress);
        while !now.has_ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            now = changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_done_is_found_again_in_the_same_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/cursor");
        assert_eq!(load(&path, "a"), 0);
        let cursor = Cursor::start(path.clone(), "a".to_owned(), Duration::from_secs(1000)).unwrap();
        for sequence in [4, 7, 5] {
            cursor.done(sequence);
        }
        // The interval has not passed: the end does not wait for it.
        cursor.close().await;
        assert_eq!((load(&path, "a"), load(&path, "b")), (8, 0), "another boot begins at its start");
        fs::write(&path, b"{\"boot_id\": \"a\", \"ne").unwrap();
        assert_eq!(load(&path, "a"), 0, "damaged");
    }

    #[tokio::test]
    async fn a_cursor_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file/cursor");
        fs::write(dir.path().join("file"), "in the way").unwrap();
        let cursor = Cursor::start(path.clone(), "a".to_owned(), Duration::from_millis(1)).unwrap();
        cursor.done(1);
        fs::remove_file(dir.path().join("file")).unwrap();
        cursor.done(2);
        cursor.close().await;
        assert_eq!(load(&path, "a"), 3);
    }
}
