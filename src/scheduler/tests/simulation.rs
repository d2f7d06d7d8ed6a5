//! Any arrivals, any durations: what must hold as time goes by.

use super::property::{check_gang, clusters, requests};
use super::*;
use crate::scheduler::queue::sort;
use crate::scheduler::quota::{Amount, OverQuota, Resource};
use std::cmp::Reverse;

#[derive(Debug, Clone)]
struct Arrival {
    at: i64,
    lasts: i64,
    priority: i32,
    request: Request,
}

const CLUSTERS: [&str; 3] = ["default", "a", "b"];

fn arrivals(roles: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0i64..60, 1i64..40, 0i32..10, requests(), proptest::sample::select(CLUSTERS.to_vec()));
    let arrival = move |(at, lasts, priority, mut request, cluster): (i64, i64, i32, Request, &str)| {
        request.roles.truncate(roles);
        request.virtual_cluster = cluster.to_owned();
        // Now and then something urgent.
        Arrival { at, lasts, priority: i32::from(priority == 9), request }
    };
    proptest::collection::vec(one.prop_map(arrival), 1..40)
}

/// The place in the queue.
fn rank(waiting: &Waiting) -> (Reverse<i32>, Timestamp, JobId) {
    (Reverse(waiting.priority), waiting.submitted_at, waiting.job)
}

/// Limits of some of the virtual clusters, some of them none.
fn limits() -> impl Strategy<Value = BTreeMap<String, Limits>> {
    let one = (proptest::option::of(0u64..12), proptest::option::of(0u64..16), proptest::option::of(0u64..30_000));
    let limits = one.prop_map(|(gpus, cpus, memory_mb)| Limits { gpus, cpus, memory_mb });
    let names = proptest::sample::subsequence(CLUSTERS.to_vec(), 1..=CLUSTERS.len());
    (names, proptest::collection::vec(limits, CLUSTERS.len()))
        .prop_map(|(names, limits)| names.into_iter().map(str::to_owned).zip(limits).collect())
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
    quotas: Quotas,
    /// Of each virtual cluster the first that could run, and the jobs that were started while it was that.
    firsts: HashMap<String, (Waiting, Vec<JobId>)>,
    /// What each job takes, and of which cluster.
    takes: HashMap<JobId, (String, Amount)>,
}

impl Simulation {
    fn new(nodes: Vec<NodeSnapshot>, quotas: Quotas, in_time: bool) -> Self {
        let snapshot = cluster(nodes.clone());
        let (queue, lasts, running) = Default::default();
        let (firsts, takes) = Default::default();
        Self { nodes, snapshot, queue, lasts, running, head: None, in_time, started: 0, quotas, firsts, takes }
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
        for (job, (_, promises)) in self.running.extract_if(.., |_, (until, _)| *until <= now) {
            promises.iter().for_each(|promise| self.snapshot.give_back(promise));
            let (cluster, amount) = &self.takes[&job];
            self.quotas.give_back(cluster, amount);
        }
    }

    /// Whether another pass is due: somebody was blocked who avoids a node. As callers do, that is forgiven.
    fn pass(&mut self, now: i64, rebuild: bool) -> bool {
        if rebuild {
            self.snapshot = rebuilt(&self.nodes, self.promises());
        }
        self.note_firsts();
        let decisions = schedule_within(&mut self.snapshot, &mut self.quotas, &self.queue, Timestamp(now));
        let queue = std::mem::take(&mut self.queue);
        let (mut head, mut forgiven) = (None, HashSet::new());
        for (mut waiting, (job, decision)) in queue.into_iter().zip(decisions) {
            assert_eq!(waiting.job, job);
            match decision {
                Decision::Placed(placements) => self.start(now, &waiting, &placements, head),
                Decision::Blocked { reserved, behind, .. } => {
                    assert!(!reserved || head.replace(job).is_none(), "one reservation at a time");
                    assert_eq!(behind, head.filter(|head| *head != job));
                    if !std::mem::take(&mut waiting.request.avoid).is_empty() {
                        forgiven.insert(job);
                    }
                    self.queue.push(waiting);
                }
                Decision::OverQuota { over, .. } => {
                    self.check_over(&waiting, over);
                    self.queue.push(waiting);
                }
                Decision::BackingOff { .. } => unreachable!("nobody backs off"),
            }
        }
        check_promises(&self.nodes, self.promises());
        self.check_limits();
        // Who avoids a node may wait for that alone; the time counts from the pass after it.
        self.head = head.filter(|job| !forgiven.contains(job)).map(|job| match self.head {
            Some((before, by)) if before == job => (job, by),
            _ => (job, self.all_but_passers_ended(job)),
        });
        !forgiven.is_empty()
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
        let name = &waiting.request.virtual_cluster;
        self.takes.insert(waiting.job, (name.clone(), waiting.request.total()));
        if let Some((first, passed)) = self.firsts.get_mut(name)
            && rank(first) < rank(waiting)
        {
            passed.push(waiting.job);
        }
        self.running.insert(waiting.job, (now + self.lasts[&waiting.job], promises));
        self.started += 1;
    }

    /// Who is the first of its cluster, of those that could run at all.
    fn note_firsts(&mut self) {
        for name in CLUSTERS {
            let could = |waiting: &&Waiting| {
                let alone = self.quotas.over_alone(name, &waiting.request.total()).is_none();
                alone && explain(&cluster(self.nodes.clone()), &waiting.request.later()).is_empty()
            };
            let first = self.queue.iter().filter(|waiting| waiting.request.virtual_cluster == name).find(could);
            match (first, self.firsts.get(name)) {
                (Some(first), Some((known, _))) if first.job == known.job => {}
                (Some(first), _) => drop(self.firsts.insert(name.to_owned(), (first.clone(), Vec::new()))),
                (None, _) => drop(self.firsts.remove(name)),
            }
        }
    }

    /// The first of a cluster lacks what it would lack without those that passed it, too.
    fn check_over(&self, waiting: &Waiting, over: OverQuota) {
        let name = &waiting.request.virtual_cluster;
        let passed = self.firsts.get(name).filter(|(first, _)| first.job == waiting.job).map(|(_, passed)| passed);
        let Some(passed) = passed else { return };
        let running = passed.iter().filter(|job| self.running.contains_key(job));
        let theirs: u64 = running.map(|job| self.takes[job].1.of(over.resource)).sum();
        let without = over.used - theirs + over.need;
        assert!(without > over.limit, "job {} waits for {theirs} of those that passed it: {over:?}", waiting.job);
        assert_eq!(over.kept, 0, "nothing is kept before the first");
    }

    fn check_limits(&self) {
        for name in CLUSTERS {
            let mut used = Amount::default();
            for job in self.running.keys() {
                let (cluster, amount) = &self.takes[job];
                used = if cluster == name { used.plus(*amount) } else { used };
            }
            let Some(limits) = self.quotas.limits_of(name) else { continue };
            assert_eq!(used, self.quotas.used(name));
            for resource in Resource::ALL {
                assert!(limits.of(resource).is_none_or(|limit| used.of(resource) <= limit), "{name}: {used:?}");
            }
        }
    }

    fn all_but_passers_ended(&self, head: JobId) -> i64 {
        let before =
            self.running.values().filter(|(_, promises)| promises.iter().all(|promise| promise.passed != Some(head)));
        before.map(|(until, _)| *until).max().expect("something runs, or it would not have to wait")
    }
}

/// Lets time go by until nothing runs and nothing more comes.
fn simulate(nodes: Vec<NodeSnapshot>, quotas: Quotas, mut arrivals: Vec<Arrival>, rebuilds: u32, in_time: bool) {
    arrivals.sort_by_key(|arrival| arrival.at);
    let mut simulation = Simulation::new(nodes, quotas, in_time);
    let mut coming = (1u64..).map(JobId).zip(&arrivals).peekable();
    for step in 0.. {
        let next_end = simulation.running.values().map(|(until, _)| *until).min();
        let next_arrival = coming.peek().map(|(_, arrival)| arrival.at);
        let Some(now) = next_end.into_iter().chain(next_arrival).min() else { break };
        simulation.end_due(now);
        while let Some((job, arrival)) = coming.next_if(|(_, arrival)| arrival.at == now) {
            simulation.arrive(job, arrival);
        }
        while simulation.pass(now, rebuilds & (1 << (step % 32)) != 0) {}
        if let Some((job, by)) = simulation.head {
            assert!(now < by || !in_time, "job {job} was to start by {by}, and waits at {now}");
        }
    }
    assert_eq!(simulation.started + simulation.queue.len(), arrivals.len());
    for waiting in &simulation.queue {
        let request = waiting.request.later();
        let over = simulation.quotas.over_alone(&request.virtual_cluster, &request.total()).is_some();
        assert!(over || !explain(&cluster(simulation.nodes.clone()), &request).is_empty(), "{} starved", waiting.job);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nobody_delays_the_first_that_waits_and_nobody_starves(
        nodes in clusters(), arrivals in arrivals(1), rebuilds in any::<u32>(),
    ) {
        simulate(nodes, Quotas::default(), arrivals, rebuilds, true);
    }

    #[test]
    fn nobody_starves_with_several_roles_either(
        nodes in clusters(), arrivals in arrivals(2), rebuilds in any::<u32>(),
    ) {
        simulate(nodes, Quotas::default(), arrivals, rebuilds, false);
    }

    #[test]
    fn quotas_hold_and_starve_nobody(
        nodes in clusters(), arrivals in arrivals(1), rebuilds in any::<u32>(), limits in limits(),
    ) {
        simulate(nodes, Quotas::new(&limits), arrivals, rebuilds, false);
    }

    #[test]
    fn quotas_hold_for_gangs_of_several_roles_too(
        nodes in clusters(), arrivals in arrivals(2), rebuilds in any::<u32>(), limits in limits(),
    ) {
        simulate(nodes, Quotas::new(&limits), arrivals, rebuilds, false);
    }
}
