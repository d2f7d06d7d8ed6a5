//! GPUs on which earlier runs of the job ended by hardware faults: the next runs get others, whatever has become of the
//! faults meanwhile. After a while they are taken all the same, if nothing else fits.

use super::{Run, RunTask};
use crate::domain::ids::GpuUuid;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a run rather waits than take a GPU that has failed its job.
pub const AVOIDED_FOR: Duration = Duration::from_secs(300);
/// Most that are remembered.
const MAX_AVOIDED: usize = 256;

/// What a run does not want for a while; the default avoids nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AvoidedGpus {
    pub gpus: BTreeSet<GpuUuid>,
    /// From then on they may be used again, if nothing else fits.
    pub until: Timestamp,
}

impl AvoidedGpus {
    pub fn is_empty(&self) -> bool {
        self.gpus.is_empty()
    }

    /// Nothing better has come for long enough. A clock that was set back makes nobody wait longer than that.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now || self.until.since(now) > AVOIDED_FOR
    }
}

impl Run {
    /// What the run after this one is to avoid: what this one did, and what it ended on.
    pub fn avoided_next(&self, now: Timestamp) -> AvoidedGpus {
        let ended_on = |task: &RunTask| task.exit.as_ref().map_or_else(Vec::new, |exit| exit.faulty_gpus.clone());
        let newest: BTreeSet<GpuUuid> = self.tasks.iter().flat_map(ended_on).take(MAX_AVOIDED).collect();
        let until = if newest.is_empty() { self.avoid_gpus.until } else { now.plus(AVOIDED_FOR) };
        let mut gpus = newest;
        for gpu in &self.avoid_gpus.gpus {
            if gpus.len() < MAX_AVOIDED {
                gpus.insert(gpu.clone());
            }
        }
        AvoidedGpus { gpus, until }
    }

    /// The scheduler found no place: what is avoided is forgiven once its time is over. Returns whether anything changed.
    pub fn forgive_gpus(&mut self, now: Timestamp) -> bool {
        let over = !self.avoid_gpus.is_empty() && self.avoid_gpus.is_over(now);
        if over {
            self.avoid_gpus = AvoidedGpus::default();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::exit::{Exit, ExitClass};
    use crate::domain::ids::{JobId, RunId};
    use crate::domain::run::Seat;

    const NOON: Timestamp = Timestamp(1_000_000_000_000_000);

    fn ended_on(run: u64, before: AvoidedGpus, faulty: &[&str]) -> Run {
        let seat = Seat { node: "n".into(), ip: String::new(), gpus: Vec::new(), ports: Vec::new(), passed: None };
        let mut run = Run::new(RunId(run), JobId(1), 1, NOON, NOON);
        run.place(vec![(0, 0, seat.clone()), (0, 1, seat)], NOON);
        run.avoid_gpus = before;
        let faulty_gpus = faulty.iter().map(|gpu| GpuUuid::from(*gpu)).collect();
        run.tasks[1].exit = Some(Exit { faulty_gpus, ..Exit::without_status(ExitClass::Hardware, "Xid 94") });
        run
    }

    #[test]
    fn what_ended_a_run_is_avoided_from_then_on_and_forgiven_after_a_while() {
        let first = ended_on(1, AvoidedGpus::default(), &["A"]).avoided_next(NOON);
        assert_eq!((first.gpus.len(), first.until), (1, NOON.plus(AVOIDED_FOR)));
        let later = NOON.plus(Duration::from_secs(60));
        let second = ended_on(2, first.clone(), &["B"]).avoided_next(later);
        assert_eq!(second.gpus, BTreeSet::from(["A".into(), "B".into()]));
        assert_eq!(second.until, later.plus(AVOIDED_FOR));
        assert_eq!(
            ended_on(3, first.clone(), &[]).avoided_next(later),
            first,
            "no fault is no reason to wait longer"
        );

        let mut run = ended_on(4, first, &[]);
        assert!(!run.forgive_gpus(later), "too early");
        assert!(run.forgive_gpus(NOON.plus(AVOIDED_FOR)) && run.avoid_gpus.is_empty());
        assert!(!run.forgive_gpus(NOON.plus(AVOIDED_FOR)), "there is nothing left");
        let mut run = ended_on(5, second, &[]);
        assert!(run.forgive_gpus(Timestamp(0)), "the clock was set back by days");
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let many: Vec<String> = (0..1000).map(|number| format!("GPU-{number:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let avoided = ended_on(1, AvoidedGpus::default(), &many).avoided_next(NOON);
        assert_eq!(avoided.gpus.len(), MAX_AVOIDED);
        assert_eq!(ended_on(2, avoided, &["new"]).avoided_next(NOON).gpus.len(), MAX_AVOIDED);
    }
}
