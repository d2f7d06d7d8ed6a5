//! Transcripts: lines that begin with `$` are done, what follows is the answer.
//!
//! `$ curl ARGUMENTS` runs `curl -sS -i` by a shell with `$URL` set to `http://HOST:PORT/api/v1`; `$ cat >FILE` gives the
//! lines up to the next empty one to curl's folder, with that folder for `<folder>`; `$ touch FILE` makes a file there;
//! `$ until NAME STATE` waits until alice's job is in that state, as the API tells it; `# ...` is for readers. In answers, `<ms>` stands for a time in milliseconds, `<port>` for a port of a
//! task, `<length>` for the length of a body that holds one of them.

use super::raw::{Raw, request};
use crate::harness::{Cluster, until};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Plays a transcript against a new cluster with these nodes.
#[track_caller]
pub fn play(name: &str, gpus: &[&str]) {
    if !super::has_curl(&format!("the transcript {name}")) {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/rest/{name}.txt"));
    let expected = fs::read_to_string(&path).expect("the transcript is there");
    let cluster = Cluster::start(gpus);
    let found = replayed(&expected, &cluster);
    if std::env::var_os("WHARF_BLESS").is_some() {
        fs::write(&path, &found).expect("golden files can be written");
        return;
    }
    let first = expected.lines().zip(found.lines()).position(|(expected, found)| expected != found);
    assert_eq!(found, expected, "not as in {} (WHARF_BLESS=1 writes it anew); line {first:?} + 1", path.display());
}

/// The same commands with the answers of now.
fn replayed(transcript: &str, cluster: &Cluster) -> String {
    let mut found = String::new();
    let mut lines = transcript.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            if line.starts_with('#') {
                found += &format!("{line}\n\n");
            }
            continue;
        };
        found += &format!("{line}\n");
        if let Some(file) = command.strip_prefix("cat >") {
            let mut text = String::new();
            while let Some(line) = lines.next_if(|line| !line.is_empty()) {
                text += &format!("{line}\n");
            }
            let file_text = text.replace("<folder>", &cluster.folder().display().to_string());
            fs::write(cluster.path(file), file_text).expect("the folder is ours");
            found += &text;
        } else if let Some(file) = command.strip_prefix("touch ") {
            cluster.touch(file);
        } else if let Some(wanted) = command.strip_prefix("until ") {
            wait(cluster, wanted);
        } else {
            found += answer(cluster, command).trim_end();
            found.push('\n');
        }
        found.push('\n');
    }
    found.truncate(found.trim_end().len());
    found + "\n"
}

fn wait(cluster: &Cluster, wanted: &str) {
    let (name, state) = wanted.split_once(' ').expect("NAME STATE");
    until(&format!("{name} is {state}"), || {
        let detail = Raw::ask(cluster, &request("GET", &format!("/api/v1/user/alice/jobs/{name}"), b"")).json();
        (detail["jobStatus"]["state"] == state).then_some(())
    });
}

fn answer(cluster: &Cluster, command: &str) -> String {
    let command = command.strip_prefix("curl ").expect("curl, cat or until");
    let mut shell = Command::new("sh");
    // No variable of this test's surroundings may lead curl elsewhere.
    shell.env_remove("http_proxy").env("no_proxy", "*").env("URL", format!("http://{}/api/v1", cluster.address()));
    shell.args(["-c", &format!("curl -q -sS -i -m 60 {command}")]).current_dir(cluster.folder());
    let output = shell.output().expect("a shell starts");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    normalised(&String::from_utf8_lossy(&output.stdout), cluster)
}

fn normalised(answer: &str, cluster: &Cluster) -> String {
    let answer = answer.replace("\r\n", "\n").replace(&cluster.address(), "<host>");
    let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
    let shown = with_words(body, cluster);
    let mut result = String::new();
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("date", _)) => {}
            Some(("content-length", _)) if shown != body => result += "content-length: <length>\n",
            _ => result += &format!("{line}\n"),
        }
    }
    format!("{result}\n{}\n", shown.trim_end())
}

/// Words for the numbers that differ each time.
fn with_words(body: &str, cluster: &Cluster) -> String {
    let mut result = String::new();
    let mut digits = String::new();
    for character in body.chars().chain(['\0']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        let is_port = |number: &u16| (0..cluster.nodes()).any(|node| cluster.ports(node).contains(number));
        match digits.parse::<u64>() {
            Ok(1_700_000_000_000..=9_999_999_999_999) => result += "<ms>",
            Ok(number) if u16::try_from(number).as_ref().is_ok_and(is_port) => result += "<port>",
            _ => result += &digits,
        }
        digits.clear();
        result.push(character);
    }
    result.pop();
    result
}
