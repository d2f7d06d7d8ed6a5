//! Who did what, from where, and what came of it: a line of JSON for each call that changes something or is refused, in
//! a file of bounded size.
//!
//! Lines are written by a thread of their own, in the order of the calls, so a slow disk holds up nobody; what does not
//! fit into its queue is counted, and the count is written. Refusals have files and a limit of their own: whoever is
//! refused very often pushes nothing out that was done.

use super::clock::{Clock, SystemClock};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DONE: &str = "audit.jsonl";
const REFUSED: &str = "audit-refused.jsonl";
/// Size of one file; there are [`FILES`] older ones.
const FILE_BYTES: u64 = 32 * 1024 * 1024;
const FILES: usize = 4;
/// Lines that wait for the disk.
const QUEUE: usize = 4096;
/// Refusals that are written within [`WINDOW`]; the others are counted.
const REFUSALS: u64 = 50;
const WINDOW: Duration = Duration::from_secs(1);
/// Between two complaints about the disk.
const COMPLAIN: Duration = Duration::from_secs(60);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Who was admitted; empty where nobody was.
    pub user: String,
    pub roles: Vec<&'static str>,
    /// Who really called, where somebody acts as `user`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The connection.
    pub from: String,
    pub method: &'static str,
    /// What it was done to.
    pub object: String,
    /// `ok`, or the kind of the error.
    pub result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// The log; copies write to the same.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whether it is a refusal, and the line.
    lines: SyncSender<(bool, String)>,
    lost: Arc<AtomicU64>,
    refusals: Mutex<Refusals>,
}

#[derive(Debug)]
struct Refusals {
    since: Instant,
    count: u64,
}

impl AuditLog {
    /// Appends to `audit.jsonl` and `audit-refused.jsonl` in `folder`, which nobody else may read. Blocks for a moment.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let files = [DONE, REFUSED].map(|name| Rotating::open(&folder.join(name), FILE_BYTES));
        let [done, refused] = files;
        let files = [done?, refused?];
        let (lines, queue) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write(files, &queue, &counted))?;
        let refusals = Mutex::new(Refusals { since: Instant::now(), count: 0 });
        Ok(Self(Arc::new(Inner { lines, lost, refusals })))
    }

    /// Does not wait.
    pub fn record(&self, entry: &Entry) {
        let is_refusal = entry.result == "not_allowed";
        if is_refusal && !self.has_room() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let line = Line { time: SystemClock.now().to_rfc3339(), entry };
        let Ok(mut text) = serde_json::to_string(&line) else { return };
        text.push('\n');
        if let Err(TrySendError::Full(_)) = self.0.lines.try_send((is_refusal, text)) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For one more refusal.
    fn has_room(&self) -> bool {
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.since.elapsed() >= WINDOW {
            *refusals = Refusals { since: Instant::now(), count: 0 };
        }
        refusals.count += 1;
        refusals.count <= REFUSALS
    }
}

/// Until the last copy of the log is gone.
fn write(mut files: [Rotating; 2], queue: &Receiver<(bool, String)>, lost: &AtomicU64) {
    let mut complained: Option<Instant> = None;
    while let Ok((is_refusal, line)) = queue.recv() {
        let file = &mut files[usize::from(is_refusal)];
        let missing = lost.swap(0, Ordering::Relaxed);
        let mut text = String::new();
        if missing > 0 {
            let time = SystemClock.now().to_rfc3339();
            text = format!("{{\"time\":\"{time}\",\"lost\":{missing},\"message\":\"so many lines did not fit\"}}\n");
        }
        text.push_str(&line);
        if let Err(error) = file.append(text.as_bytes()) {
            lost.fetch_add(missing + 1, Ordering::Relaxed);
            if complained.is_none_or(|last| last.elapsed() > COMPLAIN) {
                complained = Some(Instant::now());
                tracing::error!(file = %file.path.display(), %error, "the audit log cannot be written");
            }
        }
    }
}

/// A file that is put aside when it is large.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
}

impl Rotating {
    fn open(path: &Path, most: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, most })
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + text.len() as u64 > self.most {
            // The next one first: where it cannot be had, nothing is put aside.
            let next = self.numbered(0);
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&next)?;
            for older in (1..FILES).rev() {
                rename_if_there(&self.numbered(older), &self.numbered(older + 1))?;
            }
            rename_if_there(&self.path, &self.numbered(1))?;
            fs::rename(&next, &self.path)?;
            (self.file, self.size) = (file, 0);
        }
        self.file.write_all(text)?;
        self.size += text.len() as u64;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(object: &str, result: &'static str) -> Entry {
        Entry {
            user: "alice".into(),
            roles: vec!["user"],
            by: String::new(),
            from: "unix uid 1000".into(),
            method: "StopJob",
            object: object.into(),
            result,
            message: String::new(),
        }
    }

    /// Everything in the file once its writer has written of `last`.
    fn lines(path: &Path, last: &str) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.contains(last) && text.ends_with('\n') {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn calls_are_written_in_their_order_and_on_one_line_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(folder.path()).unwrap();
        log.record(&entry("job 1\n{\"forged\":1}", "ok"));
        log.record(&entry("job 2", "not_found"));
        let found = lines(&path, "job 2");
        assert_eq!(
            (found[0]["object"].as_str(), found[0]["user"].as_str()),
            (Some("job 1\n{\"forged\":1}"), Some("alice"))
        );
        assert_eq!(found[1]["result"], "not_found");
        assert!(found[0]["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_pushes_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        for _ in 0..10 * REFUSALS {
            log.record(&entry("job 1", "not_allowed"));
        }
        log.record(&entry("job 2", "ok"));
        let done = lines(&folder.path().join(DONE), "job 2");
        assert_eq!(done.last().unwrap()["object"], "job 2");
        let refused = lines(&folder.path().join(REFUSED), "job 1");
        let lost: u64 = done.iter().chain(&refused).filter_map(|line| line["lost"].as_u64()).sum();
        assert_eq!(lost + refused.iter().filter(|line| line["lost"].is_null()).count() as u64, 10 * REFUSALS);
    }

    #[test]
    fn old_files_go_and_the_last_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = Rotating::open(&path, 100).unwrap();
        for i in 0..50 {
            file.append(format!("{i:039}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3", "audit.jsonl.4"]);
        assert!(fs::read_to_string(&path).unwrap().contains("49"));
    }
}
