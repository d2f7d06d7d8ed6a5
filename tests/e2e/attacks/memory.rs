//! Messages and requests that are made to take memory: lengths that are promised, thousands that are begun and never
//! ended, the largest there may be.

use super::amount;
use super::site::{Listener, Site};
use super::wire::{self, END_STREAM, frame, hello};
use crate::harness::job::with;
use crate::harness::{attack, job, role};
use serde_json::json;

fn path(listener: &Listener) -> String {
    format!("/{}/{}", listener.service(), if listener.is_agent { "GetNode" } else { "ListNodes" })
}

#[test]
fn messages_that_are_too_large_are_refused_by_their_length() {
    let mut row = attack("message sizes", "messages of 4 MiB and a byte, to 4 GiB, promised to 4 listeners", 0, "");
    let site = Site::new();
    let lengths = [(4 << 20) + 1, 5 << 20, 1 << 30, u32::MAX];
    for listener in &site.listeners {
        for length in lengths {
            let body = [wire::announced(length), vec![0; 1000]].concat();
            let mut stream = listener.connect();
            stream.say(&[hello(), wire::request(1, &path(listener), &body, false)].concat());
            let ended = std::iter::from_fn(|| stream.frame())
                .any(|(_, flags, number, _)| number == 1 && flags & END_STREAM != 0);
            assert!(ended, "{listener:?}: a message of {length} bytes is not refused");
        }
    }
    row.came_to((lengths.len() * site.listeners.len()) as u64, &format!("refused unread; {}", site.is_well()));
}

/// Of each of so many requests a quarter of a megabyte, which is what may be sent before anybody has looked.
#[test]
fn messages_that_are_begun_and_never_ended_take_no_memory_from_others() {
    let (connections, streams) = (amount(8, 2), 800);
    let mut row =
        attack("message sizes", "messages of 4 MiB of which 240 KB come, and no end, to 4 listeners", 0, "");
    let site = Site::new();
    let half = vec![0; 240 * 1024];
    let mut megabytes = 0;
    for listener in &site.listeners {
        let mut held = Vec::new();
        for _ in 0..connections {
            let mut stream = listener.connect();
            let mut going = stream.say(&hello()) && stream.settle();
            for number in 0..streams {
                let body = [wire::announced(4 << 20), half.clone()].concat();
                // The connection may be closed over it.
                going = going && stream.say(&wire::request(number * 2 + 1, &path(listener), &body, false));
                megabytes += if going { half.len() } else { 0 };
                // Answers, so that the other end is not held up by us.
                going = going && !stream.has_ended();
            }
            held.push(stream);
        }
        site.answers();
        drop(held);
    }
    let megabytes = megabytes >> 20;
    assert!(megabytes > 200, "only {megabytes} MB could be sent");
    let count = u64::from(streams) * (connections * site.listeners.len()) as u64;
    row.came_to(count, &format!("the oldest refused, {megabytes} MB sent; {}", site.is_well()));
}

#[test]
fn requests_that_are_opened_and_never_made_keep_nobody_out() {
    let connections = amount(5, 2);
    let mut row = attack(
        "streams per connection",
        "4,000 requests without a message on each connection, to 4 listeners",
        0,
        "",
    );
    let site = Site::new();
    for listener in &site.listeners {
        let mut held = Vec::new();
        for _ in 0..connections {
            let mut stream = listener.connect();
            let mut going = stream.say(&hello());
            for number in 0..4000 {
                let headers = frame(wire::HEADERS, wire::END_HEADERS, number * 2 + 1, &wire::fields(&path(listener)));
                going = going && stream.say(&headers);
                if number % 100 == 0 {
                    going = going && !stream.has_ended();
                }
            }
            held.push(stream);
        }
        site.answers();
        drop(held);
    }
    let count = (connections * 4000 * site.listeners.len()) as u64;
    row.came_to(count, &format!("the oldest refused; {}", site.is_well()));
}

#[test]
fn the_largest_job_file_is_taken_and_a_larger_one_is_not() {
    let mut row = attack("huge job files", "of 513 KiB, 5 MB, 50 MB; 100,000 roles; a name of 400 KB", 0, "");
    let site = Site::new();
    let small = job("largest", &[role("main", 1, "true")]);
    let padded = |bytes: usize| {
        let text = small.to_string();
        let blanks = " ".repeat(bytes - text.len());
        text.replacen('{', &format!("{{{blanks}"), 1).into_bytes()
    };
    let many: Vec<_> = (0..100_000).map(|_| json!({})).collect();
    let files = [
        padded((512 << 10) + 1024),
        padded(5_000_000),
        padded(50_000_000),
        with(small.clone(), &json!({ "taskRoles": many })).to_string().into_bytes(),
        with(small.clone(), &json!({ "jobName": "x".repeat(400_000) })).to_string().into_bytes(),
    ];
    for file in &files {
        site.cluster.cli_with(&["submit", "-"], file).expect(2);
    }
    assert_eq!(site.cluster.json(&["jobs", "--all"]), json!([]));
    let well = site.is_well();
    row.came_to(files.len() as u64, &format!("refused; {well}"));
    // The twin.
    let _row = attack("huge job files", "allowed: a file of 512 KiB", 1, "ran to its end");
    let answer = site.cluster.cli_with(&["--json", "submit", "-"], &padded(512 << 10)).expect(0).json();
    let shown = site.cluster.wait_end(&answer["job_id"].to_string());
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
}
