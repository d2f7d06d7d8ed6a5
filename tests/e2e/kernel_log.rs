//! The kernel's log as a stream: from a file in its form, and from the real one where it can be written to.

use crate::harness::skip;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wharf::kernel_log::{Entry, KernelLog, KernelLogOptions, Record};

const PATIENCE: Duration = Duration::from_secs(60);

/// A file in the form of the kernel's log, and a cursor.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fs::write(fake.path(), "").unwrap();
        fake
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kmsg")
    }

    fn write(&self, raw: &str) {
        OpenOptions::new().append(true).open(self.path()).unwrap().write_all(raw.as_bytes()).unwrap();
    }

    fn options(&self, boot_id: &str) -> KernelLogOptions {
        options(&self.path(), self.0.path(), boot_id)
    }

    fn log(&self, boot_id: &str) -> KernelLog {
        KernelLog::start(self.options(boot_id)).unwrap()
    }
}

fn options(path: &Path, dir: &Path, boot_id: &str) -> KernelLogOptions {
    let mut options = KernelLogOptions::new(path.to_owned(), boot_id.to_owned(), dir.join("cursor"));
    options.retry = Duration::from_millis(20);
    options
}

async fn next(log: &mut KernelLog) -> Entry {
    tokio::time::timeout(PATIENCE, log.next()).await.expect("an entry in time").expect("it goes on")
}

async fn record(log: &mut KernelLog) -> Record {
    match next(log).await {
        Entry::Record(record) => record,
        other => panic!("no record: {other:?}"),
    }
}

#[tokio::test]
async fn records_are_handed_on_as_they_are_written() {
    let fake = Fake::new();
    fake.write("6,0,10,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0000:1b:00.0\n3,1,20,-;a\\x0ab\n");
    let mut log = fake.log("a");
    assert_eq!(next(&mut log).await, Entry::Opened { next_sequence: 0 });
    let first = record(&mut log).await;
    assert_eq!((first.text.as_str(), first.continuation.len()), ("first", 2));
    assert_eq!(record(&mut log).await.text, "a\nb");
    // Torn: nothing is told of it until the rest is there.
    fake.write("6,2,30,-;NVRM: Xid (PC");
    fake.write("I:0000:1b:00): 79\n");
    let torn = record(&mut log).await;
    assert_eq!((torn.sequence, torn.text.as_str()), (2, "NVRM: Xid (PCI:0000:1b:00): 79"));
    // What is no record, and a line without end, are left out; their sequences are missed.
    fake.write(&format!("nonsense\n6,3,31,-;{}\n6,4,32,-;after\n", "x".repeat(300_000)));
    assert_eq!(next(&mut log).await, Entry::Gap { from: 3, to: 3 });
    assert_eq!(record(&mut log).await.text, "after");
}

#[tokio::test]
async fn a_restart_goes_on_and_a_new_boot_begins_at_its_start() {
    let fake = Fake::new();
    fake.write("6,5,10,-;five\n6,6,10,-;six\n6,7,10,-;seven\n");
    let mut log = fake.log("a");
    assert_eq!(next(&mut log).await, Entry::Opened { next_sequence: 0 });
    assert_eq!(next(&mut log).await, Entry::Gap { from: 0, to: 4 }, "the start of the boot is overwritten");
    for sequence in 5..8 {
        assert_eq!(record(&mut log).await.sequence, sequence);
    }
    // All three were taken, and two are done.
    log.done(6);
    log.close().await;
    fake.write("6,8,10,-;eight\n6,11,10,-;eleven\n");
    let mut log = fake.log("a");
    assert_eq!(next(&mut log).await, Entry::Opened { next_sequence: 7 });
    for sequence in 7..9 {
        assert_eq!(record(&mut log).await.sequence, sequence, "again, or while nobody read");
    }
    assert_eq!(next(&mut log).await, Entry::Gap { from: 9, to: 10 });
    assert_eq!(record(&mut log).await.sequence, 11);
    log.done(11);
    log.close().await;
    fs::write(fake.path(), "6,0,1,-;another boot\n").unwrap();
    let mut log = fake.log("b");
    assert_eq!(next(&mut log).await, Entry::Opened { next_sequence: 0 });
    assert_eq!(record(&mut log).await.text, "another boot");
}

#[tokio::test]
async fn a_slow_consumer_makes_the_reader_wait_and_loses_nothing_of_a_file() {
    let fake = Fake::new();
    let count = 5_000;
    let all: String = (0..count).map(|sequence| format!("6,{sequence},1,-;line {sequence}\n")).collect();
    fake.write(&all);
    let mut log = fake.log("a");
    assert_eq!(next(&mut log).await, Entry::Opened { next_sequence: 0 });
    for sequence in 0..count {
        assert_eq!(record(&mut log).await.text, format!("line {sequence}"));
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_said_once_and_found_when_it_comes() {
    let fake = Fake::new();
    fs::remove_file(fake.path()).unwrap();
    let mut log = fake.log("a");
    let Entry::Unavailable { why } = next(&mut log).await else { panic!("it is not there") };
    assert!(why.contains(&fake.path().display().to_string()) && why.contains("No such file"), "{why}");
    fs::create_dir(fake.path()).unwrap();
    // Tried again meanwhile, and nothing more was said of what had been said.
    let Entry::Unavailable { why } = next(&mut log).await else { panic!("it is a folder") };
    assert!(why.contains("neither the kernel's log"), "{why}");
    fs::remove_dir(fake.path()).unwrap();
    fs::write(fake.path(), "6,0,1,-;it came\n").unwrap();
    loop {
        match next(&mut log).await {
            Entry::Unavailable { why } => assert!(why.contains("No such file"), "{why}"),
            entry => break assert_eq!(entry, Entry::Opened { next_sequence: 0 }),
        }
    }
    assert_eq!(record(&mut log).await.text, "it came");
}

#[tokio::test]
async fn another_device_in_its_place_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = KernelLog::start(options(Path::new("/dev/null"), dir.path(), "a")).unwrap();
    let Entry::Unavailable { why } = next(&mut log).await else { panic!("/dev/null is no log") };
    assert!(why.contains("the device 1:3"), "{why}");
}

const REAL: &str = "/dev/kmsg";

/// One record in the kernel's log. The kernel limits how many one opened file may write, so each has its own; what does
/// not end its line is shown only with the next.
fn inject(line: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(REAL)?.write_all(format!("<14>{line}\n").as_bytes())
}

/// Records by their text; of those with one text, the last.
type Found = BTreeMap<String, Record>;

/// Takes entries until the last of ours, each behind the one before: what came, and how many were missed.
async fn until(log: &mut KernelLog, last: &str) -> (Found, u64) {
    let (mut found, mut missed, mut expected) = (Found::new(), 0, None);
    loop {
        let (from, to) = match next(log).await {
            Entry::Record(record) => {
                let span = (record.sequence, record.sequence);
                found.insert(record.text.clone(), record);
                span
            }
            Entry::Gap { from, to } => {
                missed += to - from + 1;
                (from, to)
            }
            Entry::Opened { next_sequence } => {
                expected = Some(next_sequence);
                continue;
            }
            Entry::Unavailable { why } => panic!("{why}"),
        };
        assert!(expected.is_none_or(|expected| expected == from) && from <= to, "{expected:?}, then {from} to {to}");
        expected = Some(to + 1);
        if found.contains_key(last) {
            return (found, missed);
        }
    }
}

/// One after the other: what fills the log would overwrite what another looks for.
#[tokio::test]
async fn the_real_log_of_the_kernel() {
    if let Err(error) = inject("wharf test") {
        return skip("the kernel's own log", &format!("writing to {REAL}: {error}"));
    }
    if let Err(error) = fs::File::open(REAL) {
        return skip("the kernel's own log", &format!("reading {REAL}: {error}"));
    }
    lines_come_back_across_a_restart().await;
    what_is_overwritten_is_an_exact_gap().await;
    others_than_root_are_told_what_is_missing().await;
}

fn real(dir: &Path) -> KernelLog {
    KernelLog::start(options(Path::new(REAL), dir, "this boot")).unwrap()
}

fn unique(what: &str) -> String {
    format!("wharf test {} {what}", tempfile::Builder::new().tempfile().unwrap().path().display())
}

async fn lines_come_back_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] = ["one", "two", "three"].map(unique);
    inject(&one).unwrap();
    let mut log = real(dir.path());
    let (found, _) = until(&mut log, &one).await;
    let first = &found[&one];
    assert_eq!((first.priority, first.facility, first.continuation.len()), (6, 1, 0));
    // Written while it waits; the kernel escapes what cannot be printed.
    let strange = format!("{two} tab\there, é, \\x41\nand another line");
    inject(&strange).unwrap();
    let (found, _) = until(&mut log, &strange).await;
    assert!(found[&strange].sequence > first.sequence && found[&strange].at_boot_us >= first.at_boot_us);
    log.done(found[&strange].sequence);
    log.close().await;
    inject(&three).unwrap();
    let mut log = real(dir.path());
    let (found, missed) = until(&mut log, &three).await;
    assert!(!found.contains_key(&one) && !found.contains_key(&strange) && missed == 0, "{missed} missed");
}

async fn what_is_overwritten_is_an_exact_gap() {
    let dir = tempfile::tempdir().unwrap();
    let begin = unique("begin");
    inject(&begin).unwrap();
    let mut log = real(dir.path());
    let (found, _) = until(&mut log, &begin).await;
    let first = found[&begin].sequence;
    // SAFETY: this question (SYSLOG_ACTION_SIZE_BUFFER) uses no buffer.
    let size = usize::try_from(unsafe { libc::klogctl(10, std::ptr::null_mut(), 0) }).expect("the size of the log");
    let filler = "x".repeat(700);
    let lines: Vec<String> = (0..3 * size / 700).map(|line| format!("{begin} {line} {filler}")).collect();
    for line in &lines {
        inject(line).unwrap();
    }
    // Nobody takes anything meanwhile: the reader waits, and the kernel overwrites.
    let end = unique("end");
    inject(&end).unwrap();
    let (found, missed) = until(&mut log, &end).await;
    assert!(missed > 0, "{} lines of 700 bytes fit into {size}", lines.len());
    assert!(found[&end].sequence - first > missed, "{missed} missed of all since {first}");
    let told = lines.iter().filter(|line| found.contains_key(*line)).count();
    assert!(told > 0 && told < lines.len(), "{told} of {}", lines.len());
}

async fn others_than_root_are_told_what_is_missing() {
    const NOBODY: libc::c_long = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    // The kernel keeps the user by thread, and new threads have that of the thread that makes them.
    let as_nobody = std::thread::spawn(move || {
        // SAFETY: the call takes numbers only, and changes this thread, which ends here.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        (changed == 0).then(|| real(&path))
    });
    let Some(mut log) = as_nobody.join().unwrap() else {
        return skip("the kernel's own log for others than root", "the user cannot be changed");
    };
    match next(&mut log).await {
        Entry::Unavailable { why } => assert!(why.contains(REAL) && why.contains("it needs root"), "{why}"),
        Entry::Opened { .. } => skip("the kernel's own log for others than root", "here everybody may read it"),
        other => panic!("{other:?}"),
    }
}
