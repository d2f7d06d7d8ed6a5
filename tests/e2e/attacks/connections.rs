//! Floods of connections: ten thousand at a time, silent ones and such that speak gRPC.

use super::amount;
use super::site::{Listener, Site};
use super::wire::{ACK, PING, SETTINGS, Stream, frame, hello};
use crate::harness::{attack, skip, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a daemon keeps beside connections, and those that it has not got round to closing.
const OTHER_DESCRIPTORS: usize = 2500;

/// As many as this process may hold, of those that are wanted.
fn held_at_a_time(wanted: usize, what: &str) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a process may raise its own limit");
    let room = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(500);
    if room < wanted {
        skip(&format!("{what}: {wanted} at a time"), &format!("this user may open {hard} files"));
    }
    wanted.min(room)
}

/// One after the other, all held. What the other end closes early is held as well.
fn flood(listener: &Listener, count: usize, said: &[u8]) -> Vec<Stream> {
    let connect = |_| {
        let mut stream = listener.connect();
        stream.say(said);
        stream
    };
    (0..count).map(connect).collect()
}

fn descriptors_are_bounded(site: &Site, listener: &Listener, most: usize) {
    until("the daemon has closed what is too much", || (site.descriptors(listener.is_agent) <= most).then_some(()));
}

#[test]
fn ten_thousand_connections_that_say_nothing() {
    let count = held_at_a_time(amount(10_000, 1500), "silent connections");
    let mut row = attack("10,000 connections", "silent, to each of 4 listeners", 0, "");
    let site = Site::new();
    for listener in &site.listeners {
        let flood = flood(listener, count, b"");
        site.answers();
        descriptors_are_bounded(&site, listener, OTHER_DESCRIPTORS);
        drop(flood);
    }
    row.came_to((count * site.listeners.len()) as u64, &site.is_well());
}

#[test]
fn ten_thousand_connections_that_speak_grpc_and_ask_nothing() {
    let count = held_at_a_time(amount(10_000, 1500), "connections that speak gRPC");
    let mut row = attack("10,000 connections", "HTTP/2 without a request, to each of 4 listeners", 0, "");
    let site = Site::new();
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    // A daemon takes half of what it may open, one address half of that, 8192 at most.
    let most_each = usize::try_from(files / 4).unwrap_or(usize::MAX).clamp(64, 8192);
    for listener in &site.listeners {
        let flood = flood(listener, count, &hello());
        site.answers();
        descriptors_are_bounded(&site, listener, most_each + OTHER_DESCRIPTORS);
        drop(flood);
    }
    if count > most_each {
        for log in ["agent0", "controller"] {
            let notices = site.cluster.log_of(log).matches("too many connections").count();
            assert!((1..200).contains(&notices), "{log} says {notices} times that there were too many");
        }
    }
    row.came_to((count * site.listeners.len()) as u64, &site.is_well());
}

/// The twin.
#[test]
fn hundreds_of_connections_are_kept_and_answered() {
    let mut row =
        attack("10,000 connections", "allowed: HTTP/2 pings on 200 at a time, to each of 4 listeners", 0, "");
    let site = Site::new();
    for listener in &site.listeners {
        let mut streams = flood(listener, 200, &hello());
        for stream in &mut streams {
            assert!(stream.say(&[frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, b"are you?")].concat()));
        }
        for stream in &mut streams {
            let answered = std::iter::from_fn(|| stream.frame())
                .any(|(kind, flags, _, payload)| kind == PING && flags & ACK != 0 && payload == b"are you?");
            assert!(answered, "{listener:?}");
        }
    }
    site.is_well();
    row.came_to(800, "every ping answered");
}
