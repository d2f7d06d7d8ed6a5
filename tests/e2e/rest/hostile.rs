//! Clients that mean no good, or do not know better: a whole answer or a closed connection, and nothing for the others to
//! notice.

use super::raw::{Raw, request};
use crate::harness::{Cluster, attack, job, role, until};
use serde_json::json;

/// The controller is there, and its other clients are served.
#[track_caller]
fn still_well(cluster: &Cluster) {
    assert_eq!(Raw::ask(cluster, &request("GET", "/api/v1", b"")).status, 200);
    assert_eq!(cluster.json(&["jobs"]), json!([]), "gRPC works, and nothing was created");
}

#[test]
fn what_is_no_request_is_answered_or_closed() {
    let _row =
        attack("REST", "requests that are none, headers without end, paths with escapes", 17, "answered or closed");
    let cluster = Cluster::start(&["none"]);
    let header =
        |bytes: usize| format!("GET /api/v1 HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(bytes));
    let many = format!("GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let cases: [(&str, Vec<u8>, Option<u16>); 17] = [
        ("10 kB of headers", header(10_000).into_bytes(), Some(200)),
        ("50 kB of headers", header(50_000).into_bytes(), Some(431)),
        ("a thousand headers", many.into_bytes(), Some(431)),
        ("HTTP/1.0", b"GET /api/v1 HTTP/1.0\r\n\r\n".to_vec(), Some(200)),
        ("no host", b"GET /api/v1 HTTP/1.1\r\n\r\n".to_vec(), Some(200)),
        ("a host that is no text", b"GET /api/v1 HTTP/1.1\r\nHost: \xff\r\n\r\n".to_vec(), Some(403)),
        ("two hosts", b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\nHost: x\r\n\r\n".to_vec(), Some(403)),
        ("nonsense", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n".to_vec(), Some(400)),
        ("no version", b"GET /api/v1\r\n\r\n".to_vec(), Some(400)),
        ("an unknown method", request("BREW", "/api/v1/jobs", b""), Some(404)),
        ("an option", request("OPTIONS", "/api/v1/jobs", b""), Some(404)),
        ("an escaped slash", request("GET", "/api/v1/user/a%2Fb/jobs/x%2F..", b""), Some(404)),
        ("an escaped NUL", request("GET", "/api/v1/jobs/a~%00", b""), Some(404)),
        ("dots", request("GET", "/api/v1/jobs/../../../etc/passwd", b""), Some(404)),
        ("bad UTF-8", request("GET", "/api/v1/jobs/%ff", b""), Some(400)),
        ("a bad escape", request("GET", "/api/v1/jobs/%zz", b""), Some(400)),
        ("a tunnel", b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Some(404)),
    ];
    for (what, bytes, status) in &cases {
        let mut raw = Raw::connect(&cluster);
        raw.send(bytes);
        assert_eq!(raw.answer().map(|answer| answer.status), *status, "{what}");
    }
    still_well(&cluster);
}

#[test]
fn what_is_no_job_is_refused() {
    let _row = attack(
        "REST",
        "bodies that are no jobs, lengths that lie, chunks without end",
        9,
        "refused, nothing created",
    );
    let cluster = Cluster::start(&["none"]);
    let post = |content: &[u8]| request("POST", "/api/v1/user/eve/jobs", content);
    let deep = "[".repeat(100_000);
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("bad UTF-8", post(b"{\"jobName\": \"\xff\"}"), 400),
        ("bad JSON", post(b"{\"jobName\": \"a\",,}"), 400),
        ("deep JSON", post(deep.as_bytes()), 400),
        ("null", post(b"null"), 400),
        ("a list", post(b"[]"), 400),
        ("600 kB", post(&vec![b' '; 600_000]), 413),
        (
            "the promise of a terabyte",
            b"POST /api/v1/user/eve/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Content-Length: 1099511627776\r\n\r\n{"
                .to_vec(),
            413,
        ),
        (
            "two lengths",
            b"POST /api/v1/user/eve/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "
                .to_vec(),
            400,
        ),
    ];
    for (what, bytes, status) in &cases {
        let answer = Raw::ask(&cluster, bytes);
        assert_eq!(answer.status, *status, "{what}: {}", answer.text());
    }
    // Chunks without end are read up to the limit.
    let mut raw = Raw::connect(&cluster);
    raw.send(
        b"POST /api/v1/user/eve/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    );
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    (0..12).for_each(|_| raw.send(&chunk));
    assert_eq!(raw.answer().map(|answer| answer.status), Some(413));
    still_well(&cluster);
}

#[test]
fn a_file_in_chunks_and_requests_behind_each_other_are_served() {
    let cluster = Cluster::start(&["none"]);
    let file = job("chunked", &[role("main", 1, "true")]).to_string();
    let (first, second) = file.split_at(10);
    let chunked = format!(
        "PUT /api/v1/user/eve/jobs/chunked HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    let head = request("HEAD", "/api/v1/user/eve/jobs", b"");
    let last = request("GET", "/api/v1/user/eve/jobs/chunked/config", b"");
    let mut raw = Raw::connect(&cluster);
    raw.send(&[chunked.as_bytes(), &request("GET", "/api/v1/nothing", b""), &last].concat());
    let statuses: Vec<u16> = (0..2).filter_map(|_| Some(raw.answer()?.status)).collect();
    assert_eq!(statuses, [202, 404], "in the order of the requests");
    assert_eq!(raw.answer().map(|answer| answer.text()), Some(file));
    // An answer to HEAD has no body; what follows on the connection would show one.
    raw.send(&head);
    raw.send(&request("GET", "/api/v1", b""));
    let mut seen = String::new();
    while !seen.contains("PAI RESTful API") {
        let bytes = raw.some().expect("both answers come");
        seen += &String::from_utf8_lossy(&bytes);
    }
    assert!(!seen.contains("chunked\""), "{seen}");
}

#[test]
fn slow_clients_hold_nobody_up_and_are_let_go() {
    let _row = attack("slow-loris", "300 clients that stop within a request", 300, "let go, others served");
    let cluster = Cluster::start(&["none"]);
    // More than are served at a time: half have said nothing, half have begun a request and stopped.
    let mut slow: Vec<Raw> = (0..300).map(|_| Raw::connect(&cluster)).collect();
    for raw in slow.iter_mut().step_by(2) {
        raw.send(b"GET /api/v1/jobs HTTP/1.1\r\nHost: loc");
    }
    // gRPC has its own places, also for a client that comes now.
    assert_eq!(cluster.json(&["jobs"]), json!([]));
    // Who is one too many for HTTP is told so, and served once the slow ones have been let go.
    until("a place is free again", || {
        let mut raw = Raw::connect(&cluster);
        raw.send(&request("GET", "/api/v1", b""));
        let status = raw.answer()?.status;
        assert!([200, 503].contains(&status), "{status}");
        (status == 200).then_some(())
    });
    for mut raw in slow {
        assert!(raw.ends(), "every slow connection is closed");
    }
    still_well(&cluster);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let _row = attack("slow-loris", "a body that does not come", 1, "408, others served meanwhile");
    let cluster = Cluster::start(&["none"]);
    let mut raw = Raw::connect(&cluster);
    raw.send(
        b"POST /api/v1/user/eve/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Content-Length: 100\r\n\r\n{",
    );
    // In the meantime others are served.
    still_well(&cluster);
    assert_eq!(raw.answer().map(|answer| answer.status), Some(408));
    assert!(raw.ends());
}

#[test]
fn grpc_and_http_are_served_at_once() {
    let cluster = Cluster::start(&["none"]);
    let cluster = &cluster;
    std::thread::scope(|scope| {
        for user in ["a", "b", "c", "d"] {
            scope.spawn(move || {
                // Together more than are listed at a time.
                for number in 0..60 {
                    let name = format!("{user}{number}");
                    let mut file = job(&name, &[role("main", 1, "true")]);
                    file["taskRoles"][0]["cpuNumber"] = json!(9999);
                    let path = format!("/api/v1/user/{user}/jobs/{name}");
                    let put = Raw::ask(cluster, &request("PUT", &path, file.to_string().as_bytes()));
                    assert_eq!(put.status, 202, "{}", put.text());
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(move || {
                for _ in 0..10 {
                    cluster.cli(&["jobs", "--json"]).expect(0);
                }
            });
        }
    });
    let listed = Raw::ask(cluster, &request("GET", "/api/v1/jobs", b"")).json();
    let created: Vec<i64> =
        listed.as_array().expect("a list").iter().filter_map(|job| job["createdTime"].as_i64()).collect();
    assert_eq!(created.len(), 240);
    assert!(created.is_sorted_by(|earlier, later| earlier >= later), "newest first");
    assert_eq!(cluster.json(&["jobs"]).as_array().map(Vec::len), Some(240));
    let of_one = Raw::ask(cluster, &request("GET", "/api/v1/jobs?username=a", b"")).json();
    assert_eq!(of_one.as_array().map(Vec::len), Some(60));
}

#[test]
fn a_controller_that_stops_lets_idle_connections_go() {
    let cluster = Cluster::start(&["none"]);
    let mut idle = Raw::connect(&cluster);
    idle.send(&request("GET", "/api/v1", b""));
    assert_eq!(idle.answer().map(|answer| answer.status), Some(200));
    let mut silent = Raw::connect(&cluster);
    assert_eq!(cluster.stop_controller(), 0);
    assert!(idle.ends() && silent.ends());
    cluster.start_controller();
    cluster.wait_ready();
}
