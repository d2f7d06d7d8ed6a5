//! What the barrier costs: from the agent's "go" to the command's first instruction, beside fork and exec.

use super::clock::{Stamps, ms_between, now_ns};
use super::table::{Sample, Table};
use std::process::{Command, Stdio};

/// Plays the agent.
#[allow(dead_code)]
#[path = "../../tests/shim/harness.rs"]
mod shim;

pub fn run(stamps: &Stamps, rounds: usize, table: &mut Table) {
    let (mut ours, mut bare) = <(Sample, Sample)>::default();
    let (program, port) = (stamps.program.display().to_string(), stamps.port.to_string());
    for round in 0..rounds {
        let tag = format!("go{round}");
        let mut agent = shim::Agent::prepare(&shim::spec());
        let start = now_ns();
        agent.go(&shim::run(&[&program, &port, &tag]));
        ours.0.push(ms_between(start, stamps.wait(&tag)));
        agent.expect_start();
        agent.expect_end();
        agent.bye();

        let tag = format!("bare{round}");
        let start = now_ns();
        let done = Command::new(&program).args([&port, &tag]).stdin(Stdio::null()).status();
        assert!(done.expect("the stamp starts").success(), "the stamp failed");
        bare.0.push(ms_between(start, stamps.wait(&tag)));
    }
    table.pair("go to exec", "ms", &ours, "fork + exec", &bare);
}
