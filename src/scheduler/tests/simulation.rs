//! Any arrivals, any durations: what must hold as time goes by.

use super::property::{check_gang, clusters, requests};
use super::*;
use crate::scheduler::queue::sort;

#[derive(Debug, Clone)]
struct Arrival {
    at: i64,
    lasts: i64,
    priority: i32,
    request: Request,
}

fn arrivals(roles: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0i64..60, 1i64..40, 0i32..10, requests());
    let arrival = move |(at, lasts, priority, mut request): (i64, i64, i32, Request)| {
        request.roles.truncate(roles);
        // Now and then something urgent.
        Arrival { at, lasts, priority: i32::from(priority == 9), request }
    };
    proptest::collection::vec(one.prop_map(arrival), 1..40)
}

/// A cluster in which every job ends after its time.
struct Simulation {
    nodes: Vec<NodeSnapshot>,
    snapshot: Snapshot,
    queue: Vec<Waiting>,
    lasts: HashMap<JobId, i64>,
    /// Until when, and what is promised.
    running: BTreeMap<JobId, (i64, Vec<Promise>)>,
    /// The first that waits, and when all has ended that ran when its turn came.
    head: Option<(JobId, i64)>,
    /// Whether that is a limit: with several roles, only a search could always find what was reserved.
    in_time: bool,
    started: usize,
}

impl Simulation {
    fn new(nodes: Vec<NodeSnapshot>, in_time: bool) -> Self {
        let snapshot = cluster(nodes.clone());
        let (queue, lasts, running) = Default::default();
        Self { nodes, snapshot, queue, lasts, running, head: None, in_time, started: 0 }
    }

    fn promises(&self) -> impl Iterator<Item = &Promise> {
        self.running.values().flat_map(|(_, promises)| promises)
    }

    fn arrive(&mut self, job: JobId, arrival: &Arrival) {
        self.lasts.insert(job, arrival.lasts);
        let (submitted_at, request) = (Timestamp(arrival.at), arrival.request.clone());
        self.queue.push(Waiting { job, priority: arrival.priority, submitted_at, not_before: None, request });
        sort(&mut self.queue);
    }

    fn end_due(&mut self, now: i64) {
        for (_, (_, promises)) in self.running.extract_if(.., |_, (until, _)| *until <= now) {
            promises.iter().for_each(|promise| self.snapshot.give_back(promise));
        }
    }

    fn pass(&mut self, now: i64, rebuild: bool) {
        if rebuild {
            self.snapshot = rebuilt(&self.nodes, self.promises());
        }
        let decisions = schedule(&mut self.snapshot, &self.queue, Timestamp(now));
        let queue = std::mem::take(&mut self.queue);
        let mut head = None;
        for (waiting, (job, decision)) in queue.into_iter().zip(decisions) {
            assert_eq!(waiting.job, job);
            match decision {
                Decision::Placed(placements) => self.start(now, &waiting, &placements, head),
                Decision::Blocked { reserved, behind, .. } => {
                    assert!(!reserved || head.replace(job).is_none(), "one reservation at a time");
                    assert_eq!(behind, head.filter(|head| *head != job));
                    self.queue.push(waiting);
                }
                Decision::BackingOff { .. } => unreachable!("nobody backs off"),
            }
        }
        check_promises(&self.nodes, self.promises());
        self.head = head.map(|job| match self.head {
            Some((before, by)) if before == job => (job, by),
            _ => (job, self.all_but_passers_ended(job)),
        });
    }

    fn start(&mut self, now: i64, waiting: &Waiting, placements: &[Placement], head: Option<JobId>) {
        check_gang(&self.snapshot, &waiting.request, placements);
        assert!(placements.iter().all(|placement| placement.passed == head), "who waits ahead is remembered");
        if let Some((_, by)) = self.head.filter(|(job, _)| *job == waiting.job) {
            assert!(now <= by || !self.in_time, "job {} was to start by {by}, and starts at {now}", waiting.job);
        }
        let promises = gang(&self.snapshot, waiting.job.0, &waiting.request, placements);
        let promises = promises.into_iter().map(|(_, promise)| promise).collect();
        if head.is_none() {
            // Started, or overtaken by something more urgent: another turn begins.
            self.head = None;
        }
        self.running.insert(waiting.job, (now + self.lasts[&waiting.job], promises));
        self.started += 1;
    }

    fn all_but_passers_ended(&self, head: JobId) -> i64 {
        let before =
            self.running.values().filter(|(_, promises)| promises.iter().all(|promise| promise.passed != Some(head)));
        before.map(|(until, _)| *until).max().expect("something runs, or it would not have to wait")
    }
}

/// Lets time go by until nothing runs and nothing more comes.
fn simulate(nodes: Vec<NodeSnapshot>, mut arrivals: Vec<Arrival>, rebuilds: u32, in_time: bool) {
    arrivals.sort_by_key(|arrival| arrival.at);
    let mut simulation = Simulation::new(nodes, in_time);
    let mut coming = (1u64..).map(JobId).zip(&arrivals).peekable();
    for step in 0.. {
        let next_end = simulation.running.values().map(|(until, _)| *until).min();
        let next_arrival = coming.peek().map(|(_, arrival)| arrival.at);
        let Some(now) = next_end.into_iter().chain(next_arrival).min() else { break };
        simulation.end_due(now);
        while let Some((job, arrival)) = coming.next_if(|(_, arrival)| arrival.at == now) {
            simulation.arrive(job, arrival);
        }
        simulation.pass(now, rebuilds & (1 << (step % 32)) != 0);
        if let Some((job, by)) = simulation.head {
            assert!(now < by || !in_time, "job {job} was to start by {by}, and waits at {now}");
        }
    }
    assert_eq!(simulation.started + simulation.queue.len(), arrivals.len());
    for waiting in &simulation.queue {
        assert!(!explain(&cluster(simulation.nodes.clone()), &waiting.request).is_empty(), "{} starved", waiting.job);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nobody_delays_the_first_that_waits_and_nobody_starves(
        nodes in clusters(), arrivals in arrivals(1), rebuilds in any::<u32>(),
    ) {
        simulate(nodes, arrivals, rebuilds, true);
    }

    #[test]
    fn nobody_starves_with_several_roles_either(
        nodes in clusters(), arrivals in arrivals(2), rebuilds in any::<u32>(),
    ) {
        simulate(nodes, arrivals, rebuilds, false);
    }
}
