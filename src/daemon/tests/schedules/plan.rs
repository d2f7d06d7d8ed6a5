//! What happens in a schedule, and when: all of it from one seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fmt;

/// Something that somebody does, or that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Submit {
        gang: u32,
        gpus: u32,
        lasts_ms: u32,
        code: i32,
        heeds_stop: bool,
        retries: i32,
        restarts_when_lost: bool,
    },
    /// One of the jobs that there are, by its place among them.
    Stop {
        job: u32,
    },
    /// SIGKILL, and another process after so many milliseconds.
    KillAgent {
        node: u32,
        away_ms: u32,
    },
    KillController {
        away_ms: u32,
    },
    /// Another controller takes the lead while the one before goes on.
    Depose,
    Cut {
        node: u32,
        to_agent: bool,
        to_controller: bool,
        ms: u32,
    },
    AgentDiskFull {
        node: u32,
        ms: u32,
    },
    ControllerDiskFull {
        ms: u32,
    },
    /// What is written next is written, but nobody is told.
    ControllerAnswersLost {
        commits: u32,
    },
    RuntimeHangs {
        node: u32,
        ms: u32,
    },
    PreparesFail {
        node: u32,
        count: u32,
    },
    Reboot {
        node: u32,
        away_ms: u32,
    },
    /// The wall clocks of everybody are set.
    ClockJumps {
        seconds: i32,
    },
}

impl Step {
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Submit { .. } | Self::Stop { .. })
    }
}

/// Steps, each with the milliseconds that pass before it.
#[derive(Debug)]
pub struct Plan(pub Vec<(u32, Step)>);

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(10..40);
        let mut steps: Vec<(u32, Step)> = (0..2).map(|_| (10, submit(&mut random))).collect();
        for _ in 0..count {
            // Most things happen while others are still going on.
            let pause =
                if random.random_bool(0.7) { random.random_range(0..400) } else { random.random_range(0..20_000) };
            steps.push((pause, step(&mut random)));
        }
        Self(steps)
    }
}

fn submit(random: &mut SmallRng) -> Step {
    Step::Submit {
        gang: random.random_range(1..5),
        gpus: random.random_range(0..3),
        lasts_ms: if random.random_bool(0.3) { random.random_range(0..50) } else { random.random_range(0..40_000) },
        code: if random.random_bool(0.75) { 0 } else { random.random_range(1..4) },
        heeds_stop: random.random_bool(0.7),
        retries: random.random_range(-1..2),
        restarts_when_lost: random.random_bool(0.3),
    }
}

fn step(random: &mut SmallRng) -> Step {
    let node = random.random_range(0..3);
    let ms = if random.random_bool(0.6) { random.random_range(10..2_000) } else { random.random_range(10..90_000) };
    match random.random_range(0..20) {
        0..6 => submit(random),
        6..8 => Step::Stop { job: random.random_range(0..8) },
        8..10 => Step::KillAgent { node, away_ms: ms },
        10..12 => Step::KillController { away_ms: ms / 4 },
        12 => Step::Depose,
        13 | 14 => {
            let (to_agent, to_controller) = [(true, true), (true, false), (false, true)][random.random_range(0..3)];
            // Now and then longer than any lease.
            let ms = if random.random_bool(0.1) { 500_000 } else { ms };
            Step::Cut { node, to_agent, to_controller, ms }
        }
        15 => Step::AgentDiskFull { node, ms },
        16 if random.random_bool(0.5) => Step::ControllerDiskFull { ms: ms / 10 },
        16 => Step::ControllerAnswersLost { commits: random.random_range(1..4) },
        17 => Step::RuntimeHangs { node, ms },
        18 if random.random_bool(0.5) => Step::PreparesFail { node, count: random.random_range(1..4) },
        18 => Step::Reboot { node, away_ms: ms },
        _ => Step::ClockJumps { seconds: random.random_range(-100_000..100_000) },
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        for (pause, step) in &self.0 {
            at += pause;
            writeln!(f, "  {:>9.3} s  {step:?}", f64::from(at) / 1000.0)?;
        }
        Ok(())
    }
}
