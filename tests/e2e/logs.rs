//! Output as the task wrote it: every byte, in order, once, from wherever one begins.

use crate::harness::job::quoted;
use crate::harness::random::Random;
use crate::harness::running::shortened;
use crate::harness::{Cluster, job, role, until};
use base64::Engine;
use serde_json::Value;
use std::fs;

/// The bytes of one stream in JSON records.
fn bytes_of(records: &[Value], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records.iter().filter(|record| record["stream"] == stream) {
        match (record["text"].as_str(), record["base64"].as_str()) {
            (Some(text), None) => bytes.extend_from_slice(text.as_bytes()),
            (None, Some(coded)) => {
                bytes.extend(base64::engine::general_purpose::STANDARD.decode(coded).expect("base64"));
            }
            _ => panic!("neither text nor base64, or both: {record}"),
        }
    }
    bytes
}

#[track_caller]
fn same(found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let (found_len, expected_len) = (found.len(), expected.len());
        let (found, expected) =
            (shortened(&found[at.min(found_len)..]), shortened(&expected[at.min(expected_len)..]));
        panic!(
            "{what}: {found_len} bytes instead of {expected_len}, other from byte {at} on:\n{found}\n--- instead of\n{expected}"
        );
    }
}

#[test]
fn every_byte_of_both_streams_survives() {
    let cluster = Cluster::start(&["none"]);
    let mut random = Random::new(11);
    let mut line = vec![b'x'; 10 << 20];
    line.extend_from_slice(b"\nafter\n");
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("long", line, b"short".to_vec()),
        ("binary", random.bytes(1_500_000), random.bytes(700_001)),
        ("unfinished", b"first\nno newline at the end".to_vec(), b"nor here".to_vec()),
        ("returns", b"10%\r20%\r100%\r\n\r\r\n\n\n".to_vec(), b"\r".to_vec()),
        ("every", (0..=255).cycle().take(4096).collect(), "\u{0}é\u{1F600}\n".as_bytes().to_vec()),
        ("nothing", Vec::new(), Vec::new()),
    ];
    let mut ids = Vec::new();
    for (name, out, err) in &cases {
        fs::write(cluster.path(&format!("{name}.out")), out).unwrap();
        fs::write(cluster.path(&format!("{name}.err")), err).unwrap();
        let file = |kind: &str| quoted(cluster.path(&format!("{name}.{kind}")));
        let command = format!("cat {}; cat {} >&2", file("out"), file("err"));
        ids.push(cluster.submit(&job(name, &[role("main", 1, &command)])));
    }
    for (id, (name, out, err)) in ids.iter().zip(&cases) {
        // Right after the end: it is told only once everything can be read.
        assert_eq!(cluster.wait_end(id)["state"], "SUCCEEDED");
        let printed = cluster.cli(&["logs", id]).expect(0);
        same(&printed.stdout, out, &format!("{name} stdout"));
        same(&printed.stderr, err, &format!("{name} stderr"));
        let followed = cluster.cli(&["logs", id, "--follow"]).expect(0);
        same(&followed.stdout, out, &format!("{name} stdout, followed"));
        let records = cluster.cli(&["--json", "logs", id]).expect(0).json_lines();
        same(&bytes_of(&records, "stdout"), out, &format!("{name} stdout, as records"));
        same(&bytes_of(&records, "stderr"), err, &format!("{name} stderr, as records"));
        assert!(records.iter().all(|record| record["stream"] != "gap"), "{name}");
        for (stream, other, bytes) in [("stdout", "stderr", out), ("stderr", "stdout", err)] {
            let records = cluster.cli(&["--json", "logs", id, "--stream", stream]).expect(0).json_lines();
            same(&bytes_of(&records, stream), bytes, &format!("{name} {stream} alone"));
            assert!(records.iter().all(|record| record["stream"] != other), "{name}: {other} in {stream}");
        }
    }
}

/// Writes lines one by one, so that there are many records.
fn chatty(cluster: &Cluster, lines: u32) -> String {
    let command = format!(
        "for i in $(seq {lines}); do echo out $i; echo err $i >&2; sleep 0.01; done; until [ -e {} ]; do sleep 0.02; done; echo end",
        quoted(cluster.path("go"))
    );
    cluster.submit(&job("chatty", &[role("main", 1, &command)]))
}

#[test]
fn any_cursor_resumes_without_loss_or_repeat() {
    let cluster = Cluster::start(&["none"]);
    let id = chatty(&cluster, 40);
    cluster.touch("go");
    cluster.wait_end(&id);
    let records = cluster.cli(&["--json", "logs", &id]).expect(0).json_lines();
    assert!(records.len() > 20, "only {} records", records.len());
    let sequences: Vec<u64> = records.iter().filter_map(|record| record["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    for k in (0..records.len()).step_by(7).chain([records.len() - 1]) {
        let cursor = records[k]["cursor"].as_str().expect("a cursor");
        let rest = cluster.cli(&["--json", "logs", &id, "--cursor", cursor]).expect(0).json_lines();
        assert_eq!(rest, records[k + 1..], "after record {k}");
        let followed = cluster.cli(&["--json", "logs", &id, "--follow", "--cursor", cursor]).expect(0).json_lines();
        assert_eq!(followed, records[k + 1..], "after record {k}, following");
    }
    let nonsense = cluster.cli(&["logs", &id, "--cursor", "nonsense"]).expect(2);
    assert!(nonsense.errors().contains("nonsense"), "{}", nonsense.errors());
}

#[test]
fn since_and_tail_choose_a_part() {
    let cluster = Cluster::start(&["none"]);
    let id = chatty(&cluster, 30);
    cluster.touch("go");
    cluster.wait_end(&id);
    let records = cluster.cli(&["--json", "logs", &id]).expect(0).json_lines();
    let middle = &records[records.len() / 2]["time"];
    let time = middle.as_str().expect("a time");
    let expected: Vec<Value> =
        records.iter().filter(|record| record["time"].as_str() >= Some(time)).cloned().collect();
    let since = cluster.cli(&["--json", "logs", &id, "--since", time]).expect(0).json_lines();
    assert_eq!(since, expected);
    assert_eq!(
        cluster.cli(&["logs", &id, "--since", "1h", "--stream", "stdout"]).expect(0).text().lines().count(),
        31
    );
    assert_eq!(cluster.cli(&["logs", &id, "--since", "0s"]).expect(0).text(), "");
    let all = cluster.cli(&["logs", &id]).expect(0).text();
    let lines: Vec<&str> = all.lines().collect();
    for count in [0, 1, 5, 31, 1000] {
        let tail = cluster.cli(&["logs", &id, "--stream", "stdout", "--tail", &count.to_string()]).expect(0).text();
        let expected = &lines[lines.len().saturating_sub(count)..];
        assert_eq!(tail.lines().collect::<Vec<_>>(), expected, "the last {count}");
    }
    assert_eq!(cluster.cli(&["logs", &id, "--since", "yesterday"]).code, 2);
}

#[test]
fn a_follower_from_before_the_start_sees_everything_to_the_end() {
    let cluster = Cluster::start(&["sim:1xH100"]);
    let hold = format!("until [ -e {} ]; do sleep 0.02; done", quoted(cluster.path("free")));
    let mut hog = role("main", 1, &hold);
    hog["gpuNumber"] = serde_json::json!(1);
    let hog = cluster.submit(&job("hog", &[hog]));
    cluster.wait_running(&hog);
    let command = format!(
        "seq 1000; until [ -e {} ]; do sleep 0.02; done; seq 1001 5000; printf last",
        quoted(cluster.path("more"))
    );
    let mut wants = role("main", 1, &command);
    wants["gpuNumber"] = serde_json::json!(1);
    let id = cluster.submit(&job("followed", &[wants]));
    let (follower, by_records) =
        (cluster.spawn(&["logs", &id, "--follow"]), cluster.spawn(&["--json", "logs", "followed", "-f"]));
    assert_eq!(cluster.show(&id)["state"], "WAITING");
    cluster.touch("free");
    let lines = |to: u32| (1..=to).map(|i| format!("{i}\n")).collect::<String>();
    // It is shown while the task still runs.
    until("the first part is shown", || (follower.stdout_so_far() == lines(1000).as_bytes()).then_some(()));
    cluster.touch("more");
    let expected = format!("{}last", lines(5000));
    same(&follower.finish().expect(0).stdout, expected.as_bytes(), "followed");
    same(
        &bytes_of(&by_records.finish().expect(0).json_lines(), "stdout"),
        expected.as_bytes(),
        "followed as records",
    );
}

#[test]
fn the_end_is_told_after_the_last_byte() {
    let cluster = Cluster::start(&["none"]);
    fs::write(cluster.path("big"), Random::new(5).bytes(6 << 20)).unwrap();
    let command = format!("cat {}; exit 3", quoted(cluster.path("big")));
    let ids: Vec<String> =
        (0..4).map(|i| cluster.submit(&job(&format!("big{i}"), &[role("main", 1, &command)]))).collect();
    let expected = fs::read(cluster.path("big")).unwrap();
    for id in ids {
        let shown = cluster.wait_end(&id);
        same(&cluster.cli(&["logs", &id]).expect(0).stdout, &expected, "at the end");
        assert_eq!(shown["exit"]["code"], 3, "{shown}");
    }
}

#[test]
fn lines_of_several_tasks_say_whose_they_are() {
    let cluster = Cluster::start(&["none"]);
    let command =
        "echo I am $PAI_CURRENT_TASK_ROLE_NAME $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX; printf unfinished";
    let id = cluster.submit(&job("several", &[role("a", 2, command), role("b", 1, command)]));
    cluster.wait_end(&id);
    let printed = cluster.cli(&["logs", &id]).expect(0).text();
    for (task, who) in [("a[0]", "a 0"), ("a[1]", "a 1"), ("b[0]", "b 0")] {
        assert!(printed.contains(&format!("{task} | I am {who}\n")), "{printed}");
        assert!(printed.contains(&format!("{task} | unfinished")), "{printed}");
    }
    let one = cluster.cli(&["logs", &id, "--role", "a", "--index", "1"]).expect(0).text();
    assert_eq!(one, "I am a 1\nunfinished");
    assert_eq!(cluster.cli(&["logs", &id, "--role", "c"]).code, 2);
}
