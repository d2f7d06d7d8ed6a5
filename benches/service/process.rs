//! What a task as a process costs over fork and exec.

use super::clock::{Stamps, ms_between, now_ns};
use super::cluster::{Cluster, job};
use super::table::{Sample, Table};
use std::path::Path;
use std::process::{Command, Stdio};
use wharf::domain::event::Event;

/// Submit to the first instruction and to the news of the end, beside `sh -c` started and waited for; in turns.
pub async fn run(folder: &Path, stamps: &Stamps, rounds: usize, table: &mut Table) {
    let cluster = Cluster::start(&folder.join("process"), &["runtime = 'process'\ngpus = 'none'".to_owned()]).await;
    let mut events = cluster.events().await;
    let (mut first, mut ended, mut bare_first, mut bare_ended) = <(Sample, Sample, Sample, Sample)>::default();
    for round in 0..rounds {
        let tag = format!("p{round}");
        let command = format!("exec {} {} {tag}", stamps.program.display(), stamps.port);
        let start = now_ns();
        let id = cluster.submit(&job(&format!("bench-{tag}"), "none", 1, &command)).await;
        let is_end = |event: &Event| event.job == Some(id) && event.kind == "job.ended";
        while !events.recv().await.expect("the stream goes on").is_ok_and(|event| is_end(&event)) {}
        ended.0.push(ms_between(start, now_ns()));
        first.0.push(ms_between(start, stamps.wait(&tag)));

        let tag = format!("q{round}");
        let command = format!("exec {} {} {tag}", stamps.program.display(), stamps.port);
        let start = now_ns();
        let done = Command::new("/bin/bash").args(["-c", &command]).stdin(Stdio::null()).status();
        assert!(done.expect("a shell starts").success(), "the stamp failed");
        bare_ended.0.push(ms_between(start, now_ns()));
        bare_first.0.push(ms_between(start, stamps.wait(&tag)));
    }
    table.pair("process: submit to first instruction", "ms", &first, "fork + exec", &bare_first);
    table.pair("process: submit to end known", "ms", &ended, "fork + exec + wait", &bare_ended);
}

/// A gang of 8 over two agents: how far apart their first instructions are.
pub async fn skew(folder: &Path, stamps: &Stamps, rounds: usize, table: &mut Table) {
    let node = "runtime = 'process'\ngpus = 'sim:4xH100'".to_owned();
    let cluster = Cluster::start(&folder.join("skew"), &[node.clone(), node]).await;
    let mut skews = Sample::default();
    for round in 0..rounds {
        let command = format!(
            "exec {} {} g{round}-$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX",
            stamps.program.display(),
            stamps.port
        );
        let file = job(&format!("gang-{round}"), "none", 8, &command).replace("\"gpuNumber\":0", "\"gpuNumber\":1");
        let id = cluster.submit(&file).await;
        let times: Vec<u128> = stamps.wait_all(&format!("g{round}-"), 8);
        let (least, most) = (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0));
        skews.0.push(ms_between(least, most));
        cluster.wait_ended(id).await;
    }
    table.alone("gang of 8 over two agents: first to last first instruction", "ms", &skews);
}
