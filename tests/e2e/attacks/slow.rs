//! Writers that are slow on purpose (slow-loris), and readers that never read.

use super::site::{Listener, MOST_KB, Site};
use super::wire::{self, CONTINUATION, DATA, END_STREAM, HEADERS, Stream, frame, hello};
use super::{amount, is_whole};
use crate::harness::wait::{PATIENCE, pause};
use crate::harness::{attack, job, role, skip, until};
use std::time::{Duration, Instant};

/// What comes after so many others.
type Piece = fn(usize) -> Vec<u8>;
/// A way to say something byte by byte: what comes first, then one piece after the other.
type Slow = (&'static str, fn(&Listener) -> Vec<u8>, Piece);

const WAYS: [Slow; 4] = [
    (
        "HTTP/1 headers byte by byte",
        |_| b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ".to_vec(),
        |_| b"a".to_vec(),
    ),
    (
        "the preface of HTTP/2 byte by byte",
        |_| Vec::new(),
        |at| wire::PREFACE.get(at).map_or(Vec::new(), |byte| vec![*byte]),
    ),
    (
        "a TLS hello byte by byte",
        |_| Vec::new(),
        |at| vec![*b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".get(at).unwrap_or(&0x41)],
    ),
    (
        "HTTP/2 headers that go on byte by byte",
        |listener| {
            let path = format!("/{}/GetNode", listener.service());
            [hello(), frame(HEADERS, 0, 1, &wire::fields(&path))].concat()
        },
        |at| frame(CONTINUATION, 0, 1, &[b"\x00\x01x\x01y"[at % 5]]),
    ),
];

/// Says a piece to each from time to time until each has been closed; others are answered meanwhile.
fn dribble(site: &Site, slow: &mut Vec<(Stream, Piece)>) {
    let deadline = Instant::now() + PATIENCE;
    for at in 0.. {
        slow.retain_mut(|(stream, piece)| {
            let piece = piece(at);
            !stream.has_ended() && (piece.is_empty() || stream.say(&piece))
        });
        if slow.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} slow connections are still there", slow.len());
        if at % 20 == 5 {
            site.answers();
        }
        pause(Duration::from_millis(100));
    }
}

#[test]
fn writers_that_are_slow_on_purpose_are_let_go() {
    let each = amount(100, 25);
    let mut rows: Vec<_> = WAYS.iter().map(|(way, ..)| attack("slow-loris", way, 0, "")).collect();
    let site = Site::new();
    let mut slow = Vec::new();
    for (_, first, piece) in &WAYS {
        for listener in &site.listeners {
            for _ in 0..each {
                let mut stream = listener.connect();
                stream.say(&first(listener));
                slow.push((stream, *piece));
            }
        }
    }
    dribble(&site, &mut slow);
    let well = site.is_well();
    for row in &mut rows {
        row.came_to((each * site.listeners.len()) as u64, &format!("all closed; {well}"));
    }
}

#[test]
fn a_message_that_never_ends_is_answered_at_last() {
    if !is_whole() {
        return skip("a gRPC message that never ends", "it takes half a minute: tests/security, tests/run all");
    }
    let mut row = attack("slow-loris", "a gRPC message byte by byte", 0, "");
    let site = Site::new();
    let begin = |listener: &Listener| {
        let path = format!("/{}/{}", listener.service(), if listener.is_agent { "GetNode" } else { "ListNodes" });
        let mut stream = listener.connect();
        stream.say(&[hello(), wire::request(1, &path, &wire::announced(1000), false)].concat());
        stream
    };
    let mut slow: Vec<Stream> = (0..400).map(|at| begin(&site.listeners[at % 4])).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut answered = vec![false; slow.len()];
    while answered.iter().any(|answered| !answered) {
        assert!(Instant::now() < deadline, "{:?}", answered.iter().filter(|answered| !**answered).count());
        for (stream, answered) in slow.iter_mut().zip(&mut answered) {
            if *answered {
                continue;
            }
            stream.say(&frame(DATA, 0, 1, b"x"));
            // What has come: frames, of which one ends the stream.
            stream.set_timeout(Some(Duration::from_millis(1))).expect("a time-out can be set");
            while let Some((_, flags, number, _)) = stream.frame() {
                *answered |= number == 1 && flags & END_STREAM != 0;
            }
        }
        site.answers();
        pause(Duration::from_millis(500));
    }
    row.came_to(slow.len() as u64, &format!("each refused in its time; {}", site.is_well()));
}

/// The twin.
#[test]
fn writers_that_are_merely_slow_are_served() {
    let _row = attack("slow-loris", "allowed: requests in twenty pieces, to 4 listeners", 8, "all answered");
    let site = Site::new();
    for listener in &site.listeners {
        let mut http = listener.connect();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        for piece in request.chunks(request.len() / 20 + 1) {
            assert!(http.say(piece));
            pause(Duration::from_millis(20));
        }
        assert!(http.rest().is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200")), "{listener:?}");
        let path = format!("/{}/{}", listener.service(), if listener.is_agent { "GetNode" } else { "ListNodes" });
        let mut grpc = listener.connect();
        let all = [hello(), wire::request(1, &path, &wire::message(&wire::principal()), true)].concat();
        for piece in all.chunks(all.len() / 20 + 1) {
            assert!(grpc.say(piece));
            pause(Duration::from_millis(20));
        }
        let answered = std::iter::from_fn(|| grpc.frame())
            .any(|(kind, _, number, payload)| kind == DATA && number == 1 && payload.len() > 20);
        assert!(answered, "{listener:?}");
    }
}

/// A task that says this many MB.
fn says(site: &Site, megabytes: usize) -> String {
    let command = format!(
        "yes 0123456789012345678901234567890123456789012345678901234567890 | head -c {megabytes}000000; sleep 600"
    );
    let id = site.cluster.submit(&job("says", &[role("main", 1, &command)]));
    site.cluster.wait_running(&id);
    id
}

/// Followers of a log and, one of five, of what happens, on one connection, none of which is ever read.
fn follow(listener: &Listener, task: &str, followers: usize) -> Stream {
    let mut bytes = hello();
    for number in 0..followers {
        // Fields: principal; task; follow.
        let (method, content) = match (number % 5, listener.is_agent) {
            (0, true) => ("Watch", wire::principal()),
            (0, false) => ("Watch", [wire::principal(), vec![3 << 3, 1]].concat()),
            _ => ("Logs", [wire::principal(), wire::field(2, task.as_bytes()), vec![5 << 3, 1]].concat()),
        };
        let path = format!("/{}/{method}", listener.service());
        let stream = u32::try_from(number * 2 + 1).expect("small");
        bytes.extend(wire::request(stream, &path, &wire::message(&content), true));
    }
    let mut stream = listener.connect();
    assert!(stream.say(&bytes), "{listener:?}");
    stream
}

#[test]
fn followers_that_never_read_hold_nobody_up() {
    let (connections, followers) = (amount(8, 2), amount(250, 50));
    let mut row = attack("slow readers", "followers of output and of events that never read", 0, "");
    let (site, megabytes) = (Site::new(), amount(50, 10));
    let id = says(&site, megabytes);
    let task = format!("{id}.{id}.0.0");
    let mut count = 0;
    for (number, listener) in site.listeners.iter().enumerate() {
        // An agent's streams are for its controllers: others get no more than leaves them enough.
        let (connections, followers) =
            if listener.is_agent { (2, followers.min(200)) } else { (connections, followers) };
        let held: Vec<Stream> = (0..connections).map(|_| follow(listener, &task, followers)).collect();
        count += held.len() * followers;
        site.answers();
        // The twin: who comes from elsewhere and reads gets everything.
        let elsewhere = &site.listeners[usize::from(number == 0)].address;
        let read = || {
            let mut command = site.cluster.command(&["logs", &id]);
            command.env("WHARF_CONTROLLER", elsewhere);
            crate::harness::Running::start(command).finish().expect(0).stdout.len()
        };
        until("who reads has all of it", || (read() == megabytes * 1_000_000).then_some(()));
    }
    // Of a thousand, which is what an agent serves, about a megabyte each.
    site.answers();
    let well = site.is_within(if is_whole() { 1200 * 1024 } else { MOST_KB });
    site.cluster.cli(&["stop", &id, "--grace", "0"]).expect(0);
    site.cluster.wait_end(&id);
    row.came_to(count as u64, &format!("who reads got all {megabytes} MB; {well}"));
}
