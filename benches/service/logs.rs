//! How fast output comes from a task to a follower: `wharf logs --follow` beside `docker logs -f`.

use super::clock::{ms_between, now_ns};
use super::cluster::{Cluster, PROGRAM, job};
use super::docker::{Dockerd, IMAGE};
use super::table::{Sample, Table};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

const ROUNDS: usize = 5;
/// Output of one round. The ring of a task's log holds more.
const MEGABYTES: u32 = 128;

pub async fn run(folder: &Path, dockerd: Option<&Dockerd>, table: &mut Table) {
    let cluster = Cluster::start(&folder.join("logs"), &["runtime = 'process'\ngpus = 'none'".to_owned()]).await;
    // Lines of 80 bytes, as programs write them.
    let line = "x".repeat(79);
    let command = format!("yes {line} | head -c {MEGABYTES}000000");
    let (mut ours, mut theirs) = <(Sample, Sample)>::default();
    for round in 0..ROUNDS {
        let start = now_ns();
        let id = cluster.submit(&job(&format!("output-{round}"), "none", 1, &command)).await;
        let mut follow = Command::new(PROGRAM);
        follow.args(["--controller", &cluster.address, "--as-user", "bench", "logs", "--follow", &id.to_string()]);
        ours.0.push(rate(follow, start));
        cluster.wait_ended(id).await;
        if let Some(dockerd) = dockerd {
            let name = format!("output-{round}");
            let start = now_ns();
            let run = dockerd
                .docker(&["run", "-d", "--network=host", "--name", &name, IMAGE, "/bin/sh", "-c", &command])
                .stdout(Stdio::null())
                .status();
            assert!(run.is_ok_and(|status| status.success()), "docker run failed");
            theirs.0.push(rate(dockerd.docker(&["logs", "-f", &name]), start));
            dockerd.docker(&["rm", "-f", &name]).stdout(Stdio::null()).status().ok();
        }
    }
    if theirs.0.is_empty() {
        table.alone("task to follower", "MB/s", &ours);
    } else {
        table.pair("task to follower", "MB/s", &ours, "docker logs -f", &theirs);
    }
}

/// MB/s from `start` to the end of what the command prints, all of which must arrive.
fn rate(mut command: Command, start: u128) -> f64 {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
    let mut out = child.stdout.take().expect("it is piped");
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0usize);
    loop {
        match out.read(&mut buffer).expect("the pipe can be read") {
            0 => break,
            read => total += read,
        }
    }
    assert!(child.wait().expect("it ends").success(), "the follower failed");
    assert_eq!(total, MEGABYTES as usize * 1_000_000, "output is missing");
    f64::from(MEGABYTES) / (ms_between(start, now_ns()) / 1e3)
}
