//! Requests that are none, by a seed: HTTP/1, frames of HTTP/2, gRPC with messages that are none, and bytes.

use super::amount;
use super::site::{Listener, Site};
use super::wire::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Stream, frame, hello};
use crate::harness::attack;
use crate::harness::random::Random;
use serde_json::json;

/// Methods of either service.
const AGENT: [&str; 11] = [
    "Stage",
    "Prepare",
    "Launch",
    "Stop",
    "Release",
    "ListTasks",
    "GetNode",
    "Watch",
    "Logs",
    "ClearFault",
    "CheckHealth",
];
const CONTROLLER: [&str; 12] = [
    "Submit",
    "ListJobs",
    "GetJob",
    "StopJob",
    "ListNodes",
    "ChangeNode",
    "ListGpus",
    "ListFaults",
    "Watch",
    "Logs",
    "Register",
    "Heartbeat",
];

const HTTP1: [&[u8]; 4] = [
    b"GET /api/v1/jobs?username=a HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"POST /api/v1/user/eve/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"jobName\":1}",
    b"PUT /api/v1/jobs/a~b/executionType HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
      Transfer-Encoding: chunked\r\n\r\n5\r\n{\"val\r\n0\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
];

fn flipped(random: &mut Random, bytes: &[u8], most: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.below(most) {
        let (at, cut) = (random.below(bytes.len() as u64) as usize, random.chance(10));
        bytes[at] = random.next() as u8;
        if cut {
            bytes.truncate(at + 1);
        }
    }
    bytes
}

/// The number says which kind.
fn malformed(random: &mut Random, number: usize, listener: &Listener) -> Vec<u8> {
    let methods: &[&str] = if listener.is_agent { &AGENT } else { &CONTROLLER };
    let path = format!("/{}/{}", listener.service(), random.pick(methods));
    let some = |random: &mut Random| {
        let count = random.below(400) as usize;
        random.bytes(count)
    };
    match number % 6 {
        0 => {
            let count = random.below(2000) as usize;
            random.bytes(count)
        }
        1 => flipped(random, HTTP1[number / 6 % HTTP1.len()], 8),
        // Frames of any kind, of which only the lengths are right.
        2 => {
            let mut bytes = hello();
            for _ in 0..=random.below(12) {
                let payload = some(random);
                let (kind, flags) = (random.below(12) as u8, random.next() as u8);
                bytes.extend(frame(kind, flags, random.below(9) as u32, &payload));
            }
            bytes
        }
        // A compressed list of headers that is none.
        3 => {
            let list = if random.chance(50) { flipped(random, &wire::fields(&path), 6) } else { some(random) };
            [hello(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &list)].concat()
        }
        // A message that is none, for a method that is one.
        4 => {
            let content = some(random);
            let content = if random.chance(50) { [wire::principal(), content].concat() } else { content };
            [hello(), wire::request(1, &path, &wire::message(&content), true)].concat()
        }
        // Lengths that lie, and messages that say they are compressed.
        _ => {
            let body = [vec![random.next() as u8], random.bytes(4), some(random)].concat();
            let all = [hello(), wire::request(1, &path, &body, true), frame(DATA, END_STREAM, 1, &[])].concat();
            flipped(random, &all, 3)
        }
    }
}

/// Everything that is wrong at once ends, answered or not.
fn try_all(listener: &Listener, seed: u64, count: usize) {
    let mut random = Random::new(seed);
    for number in 0..count {
        let bytes = malformed(&mut random, number, listener);
        let mut stream: Stream = listener.connect();
        stream.say(&bytes);
        stream.say_no_more();
        let rest = stream.rest();
        assert!(rest.is_some(), "{listener:?}, seed {seed}: number {number} has no end: {}", bytes.escape_ascii());
    }
}

#[test]
fn requests_that_are_none_end_and_change_nothing() {
    let count = amount(10_000, 600);
    let mut row =
        attack("malformed requests", "HTTP/1, HTTP/2 frames, HPACK, gRPC and bytes by a seed, to 4 listeners", 0, "");
    let site = Site::new();
    std::thread::scope(|scope| {
        for (number, listener) in site.listeners.iter().enumerate() {
            scope.spawn(move || try_all(listener, 7_000 + number as u64, count));
        }
    });
    let well = site.is_well();
    assert_eq!(site.cluster.json(&["jobs", "--all"]), json!([]), "nothing was created");
    let nodes = site.cluster.json(&["nodes"]);
    assert_eq!((nodes[0]["state"].as_str(), nodes.as_array().map(Vec::len)), (Some("READY"), Some(1)));
    row.came_to((count * site.listeners.len()) as u64, &format!("each answered or closed; {well}"));
}

/// The twin: what is right is answered, sent by the same hands.
#[test]
fn requests_that_are_right_are_answered() {
    let _row =
        attack("malformed requests", "allowed: the same by hand, right, to 4 listeners", 4, "answered with messages");
    let site = Site::new();
    for listener in &site.listeners {
        let method = if listener.is_agent { "GetNode" } else { "ListNodes" };
        let path = format!("/{}/{method}", listener.service());
        let mut stream = listener.connect();
        stream.say(&[hello(), wire::request(1, &path, &wire::message(&wire::principal()), true)].concat());
        let mut answered = false;
        while let Some((kind, flags, number, payload)) = stream.frame() {
            answered |= kind == DATA && number == 1 && payload.len() > 20;
            if number == 1 && flags & END_STREAM != 0 {
                break;
            }
        }
        assert!(answered, "{listener:?}");
    }
}
