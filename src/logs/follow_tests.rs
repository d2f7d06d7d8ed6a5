//! Streams against a writer that lives at the same time.

use super::*;
use crate::api::stream::{Answers, StreamFilter};
use crate::domain::command::ErrorKind;
use crate::logs::cursor::Place;
use crate::logs::testing::{RingWriter, check, sum, task};
use crate::shim::record::Kind;
use std::path::Path;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    ended: watch::Sender<Option<Exit>>,
    answers: Answers<LogBatch>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn query(follow: bool) -> LogQuery {
    LogQuery { task: task(), cursor: None, stream: StreamFilter::All, follow, since: None, tail: None }
}

fn start(dir: &Path, query: LogQuery) -> Running {
    let (ended, watching) = watch::channel(None);
    let (out, answers) = mpsc::channel(2);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(stream(dir.to_owned(), query, watching, out, cancel.clone()));
    Running { ended, answers, cancel, task }
}

impl Running {
    async fn next(&mut self) -> Option<Result<LogBatch, Error>> {
        timeout(DEADLINE, self.answers.recv()).await.expect("an answer comes in time")
    }

    /// The next batch, which holds exactly this text.
    async fn text(&mut self, expected: &str) {
        let batch = self.next().await.unwrap().unwrap();
        assert_eq!(String::from_utf8(sum(&batch.records).0).unwrap(), expected);
    }

    async fn closed(mut self) {
        assert_eq!(self.next().await, None);
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_written_arrives_at_once_and_the_exit_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 3, 120);
    writer.output(Kind::Stdout, b"before");
    let mut running = start(dir.path(), query(true));
    running.text("before").await;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let text = format!("line {round}");
        let began = Instant::now();
        writer.output(Kind::Stderr, text.as_bytes());
        running.text(&text).await;
        slowest = slowest.max(began.elapsed());
    }
    // Far below the safety re-check, so inotify woke it, each time.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    writer.output(Kind::Stdout, b"last words");
    running.ended.send_replace(Some(Exit::success()));
    let mut batch = running.next().await.unwrap().unwrap();
    if batch.exit.is_none() {
        assert_eq!(sum(&batch.records).0, b"last words");
        batch = running.next().await.unwrap().unwrap();
    }
    assert_eq!(batch.exit, Some(Exit::success()));
    running.closed().await;
}

#[tokio::test]
async fn a_folder_made_later_is_found() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tasks/7");
    let mut running = start(&dir, query(true));
    tokio::task::yield_now().await;
    std::fs::create_dir_all(&dir).unwrap();
    RingWriter::new(&dir, 3, 1000).output(Kind::Stdout, b"hello");
    running.text("hello").await;
    running.ended.send_replace(Some(Exit::success()));
    assert_eq!(running.next().await.unwrap().unwrap().exit, Some(Exit::success()));
    running.closed().await;
}

#[tokio::test]
async fn without_follow_it_gives_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    RingWriter::new(dir.path(), 3, 1000).output(Kind::Stdout, b"hello");
    let mut running = start(dir.path(), query(false));
    running.text("hello").await;
    running.closed().await;
    start(&dir.path().join("missing"), query(false)).closed().await;

    let (out, mut answers) = mpsc::channel(2);
    let (_ended, watching) = watch::channel(Some(Exit::success()));
    stream(dir.path().to_owned(), query(false), watching, out, CancellationToken::new()).await;
    let batch = answers.recv().await.unwrap().unwrap();
    assert_eq!((sum(&batch.records).0, batch.exit), (b"hello".to_vec(), Some(Exit::success())));
    assert_eq!(answers.recv().await, None);
}

#[tokio::test]
async fn a_bad_cursor_is_the_only_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), LogQuery { cursor: Some("1.1.0.0:0.0".to_owned()), ..query(true) });
    assert_eq!(running.next().await.unwrap().unwrap_err().kind, ErrorKind::Invalid);
    running.closed().await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens_or_tells_or_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), query(true));
    running.answers.close();
    timeout(DEADLINE, &mut running.task).await.unwrap().unwrap();

    let mut running = start(dir.path(), query(true));
    drop(std::mem::replace(&mut running.ended, watch::channel(None).0));
    running.closed().await;

    let mut running = start(dir.path(), query(true));
    running.cancel.cancel();
    assert_eq!(running.next().await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
    running.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_writer_is_followed_without_a_wrong_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut running = start(dir.path(), query(true));
    let ended = running.ended.clone();
    let writing = std::thread::spawn(move || {
        let mut writer = RingWriter::new(&path, 3, 300_000);
        for round in 0..6000 {
            writer.pattern(Kind::Stdout, round * 37 % 3000 + 1);
        }
        ended.send_replace(Some(Exit::success()));
        Place { sequence: writer.last_sequence(), offset: writer.offset() }
    });
    let (mut place, mut exit) = (Place::default(), None);
    while let Some(answer) = running.next().await {
        assert_eq!(exit, None, "nothing comes after the exit");
        let batch = answer.unwrap();
        place = check(place, &batch.records);
        exit = batch.exit;
    }
    assert_eq!(exit, Some(Exit::success()));
    assert_eq!(place, writing.join().unwrap());
}

#[tokio::test]
async fn a_lost_end_is_one_exact_gap_and_its_cursor_resumes() {
    use crate::api::stream::LogContent;
    use crate::shim::exit::{ExitRecord, OutputTotals, Why};
    let write_exit = |dir: &Path, output| {
        let record = ExitRecord { output, ..ExitRecord::without_status(Why::OwnEnd, 9) };
        std::fs::write(dir.join("exit"), record.encode_file()).unwrap();
    };
    for written in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), 3, 120);
        let mut bytes = 0;
        if written {
            for _ in 0..9 {
                writer.output(Kind::Stdout, &[b'x'; 50]);
            }
            writer.gap(2, 100);
            bytes = writer.offset() - 100;
        }
        let gap = if written { (2, 100) } else { (0, 0) };
        // Of which the last 70, in 5 records, found no room for a gap record either.
        let totals = OutputTotals {
            bytes,
            records: if written { 9 } else { 0 },
            lost_bytes: gap.1 + 70,
            lost_records: gap.0 + 5,
        };
        write_exit(dir.path(), totals);
        let mut running = start(dir.path(), query(true));
        running.ended.send_replace(Some(Exit::success()));
        let mut records = Vec::new();
        while let Some(batch) = running.next().await {
            records.extend(batch.unwrap().records);
        }
        let last = records.last().unwrap().clone();
        assert_eq!(last.content, LogContent::Gap { lost_records: 5, lost_bytes: 70 });
        let place = crate::logs::Cursor::parse(&last.cursor, task()).unwrap().place;
        assert_eq!((place.offset, place.sequence), (writer.offset() + 70, writer.last_sequence() + 1));
        for (cursor, expected) in [
            (last.cursor.clone(), vec![]),
            (format!("{}:{}.{}", task(), place.sequence - 1, writer.offset()), vec![last]),
        ] {
            let mut resumed = start(dir.path(), LogQuery { cursor: Some(cursor), ..query(false) });
            resumed.ended.send_replace(Some(Exit::success()));
            let mut found = Vec::new();
            while let Some(batch) = resumed.next().await {
                found.extend(batch.unwrap().records);
            }
            assert_eq!(found, expected);
        }
    }
}

#[tokio::test]
async fn an_exit_record_that_contradicts_the_log_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 3, 120);
    writer.output(Kind::Stdout, b"more than it says");
    for exit in
        [crate::shim::exit::ExitRecord::without_status(crate::shim::exit::Why::OwnEnd, 9).encode_file(), vec![7; 99]]
    {
        std::fs::write(dir.path().join("exit"), exit).unwrap();
        let mut running = start(dir.path(), query(true));
        running.ended.send_replace(Some(Exit::success()));
        let mut records = Vec::new();
        while let Some(batch) = running.next().await {
            records.extend(batch.unwrap().records);
        }
        assert_eq!(sum(&records), (b"more than it says".to_vec(), 0, 0));
    }
}

#[tokio::test]
async fn reads_that_hang_leave_threads_for_others() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
    let (began, mut begun) = mpsc::unbounded_channel();
    let mut hung = tokio::task::JoinSet::new();
    for _ in 0..2 * MAX_READS {
        let (hold, began) = (hold.clone(), began.clone());
        hung.spawn(blocking(move || {
            let _ = began.send(());
            // Ends when the other side is dropped.
            let _ = hold.lock().map(|hold| hold.recv());
            Ok(())
        }));
    }
    for _ in 0..MAX_READS / 2 {
        timeout(DEADLINE, begun.recv()).await.unwrap();
    }
    let mut seen = MAX_READS / 2;
    assert_eq!(timeout(DEADLINE, tokio::task::spawn_blocking(|| 7)).await.unwrap().unwrap(), 7);
    while begun.try_recv().is_ok() {
        seen += 1;
    }
    assert!(seen <= MAX_READS, "{seen} reads at a time");
    drop(release);
    while let Some(read) = hung.join_next().await {
        read.unwrap().unwrap();
    }
}
