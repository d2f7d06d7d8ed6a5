//! Floods of what is kept: output of tasks, events.

use super::amount;
use super::site::Site;
use crate::harness::{attack, job, role};
use std::fs;
use std::os::unix::fs::MetadataExt;
use wharf::domain::event::Event;
use wharf::domain::time::Timestamp;
use wharf::store::history::EventLog;

#[test]
fn a_task_that_floods_its_log_loses_the_oldest_of_it_and_says_so() {
    let megabytes = amount(2000, 100);
    let mut row = attack("log floods", "a task that says MB as fast as it can, of which 2 are kept", 0, "");
    let site = Site::with("log_segments = 2\nlog_segment_mb = 1\n");
    let command = format!("yes and-so-on | head -c {megabytes}000000; echo; echo the end");
    let id = site.cluster.submit(&job("flood", &[role("main", 1, &command)]));
    // Others go on meanwhile; the twin: what is within the limits is there to the last byte.
    let other = site.cluster.submit(&job("other", &[role("main", 1, "yes quiet | head -c 900000")]));
    assert_eq!(site.cluster.wait_end(&other)["state"], "SUCCEEDED");
    assert_eq!(site.cluster.cli(&["logs", &other]).expect(0).stdout.len(), 900_000);
    assert_eq!(site.cluster.wait_end(&id)["state"], "SUCCEEDED");
    let task = format!("{id}.{id}.0.0");
    let files = fs::read_dir(site.cluster.path(&format!("a0/tasks/{task}"))).expect("it is kept").flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log."));
    let kept: u64 = logs.map(|file| file.metadata().expect("it is there").blocks() * 512).sum();
    assert!((500_000..3_000_000).contains(&kept), "{kept} bytes are kept");
    let records = site.cluster.cli(&["--json", "logs", &id]).expect(0).json_lines();
    // The notice says how much is gone, to the byte.
    let of = |stream: &'static str| {
        records.iter().filter(move |record| record["stream"] == stream).filter_map(|record| record["text"].as_str())
    };
    let lost: u64 = of("gap").filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum();
    let read: usize = of("stdout").map(str::len).sum();
    let said = megabytes as u64 * 1_000_000 + "\nthe end\n".len() as u64;
    assert!(lost > 0 && lost + read as u64 == said, "{lost} lost, {read} read of {said}");
    assert!(records.last().is_some_and(|last| last["text"].as_str().is_some_and(|text| text.ends_with("the end\n"))));
    row.came_to(
        megabytes as u64,
        &format!("{} KB on disk, a notice of {lost} lost bytes; {}", kept >> 10, site.is_well()),
    );
}

fn event(number: u64) -> Event {
    Event {
        sequence: 0,
        time: Timestamp(1_700_000_000_000_000_000 + number as i64),
        kind: "task.started".to_owned(),
        job: Some(number % 1000),
        task: Some(format!("{}.1.0.0", number % 1000)),
        node: Some("n1".to_owned()),
        message: format!("event {number} of a flood"),
    }
}

#[test]
fn a_million_events_leave_as_many_as_are_kept() {
    const KEPT: usize = 10_000;
    let count = amount(1_000_000, 50_000) as u64;
    let mut row = attack("a million events", "appended to a history that keeps 10,000", 0, "");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("events.db");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let before = own_peak_kb();
    let last = runtime.block_on(async {
        let log = EventLog::open(&path, KEPT).expect("it can be made");
        for first in (0..count).step_by(5000) {
            log.append((first..first + 5000).map(event).collect()).await.expect("there is room");
        }
        // A reader from long ago is told what it has missed, and gets what there is.
        let page = log.read(0, 1000).await.expect("it can be read");
        assert_eq!(page.events.len(), 1000);
        let newest = log.read(count - 10, 1000).await.expect("it can be read");
        assert_eq!(newest.events.len(), 10);
        newest.events.last().map(|event| event.sequence)
    });
    assert_eq!(last, Some(count));
    let bytes: u64 = fs::read_dir(folder.path())
        .expect("it is ours")
        .flatten()
        .map(|file| file.metadata().map_or(0, |found| found.len()))
        .sum();
    assert!(bytes < 24 << 20, "{bytes} bytes on disk");
    let grown = own_peak_kb().saturating_sub(before);
    assert!(grown < 200 * 1024, "{grown} KB more");
    row.came_to(count, &format!("the newest {KEPT} kept in {} MB, {} MB of memory", bytes >> 20, grown >> 10));
}

fn own_peak_kb() -> u64 {
    let own = i32::try_from(std::process::id()).expect("process ids are small");
    crate::harness::proc::number(own, "status", "VmHWM").expect("this process is there")
}
