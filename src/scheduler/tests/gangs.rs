//! Scheduler and runs together, under any script of agents: vetoes, slow pulls, roll-backs, ends and releases in any
//! order. Agents keep ledgers of their own, which must never refuse what was promised; and once agents do what they are
//! asked, every gang gets its turn.

use super::property::clusters;
use super::*;
use crate::domain::allocation::Ledger;
use crate::domain::exit::Exit;
use crate::domain::run::{Action, CommandFailure, Phase, Run, Seat, Verb};
use crate::domain::spec::RoleSpec;
use crate::domain::task::{TaskState, TaskStatus};
use crate::scheduler::queue::sort;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Clone)]
struct Gang {
    priority: i32,
    roles: Vec<RoleRequest>,
}

fn gangs() -> impl Strategy<Value = Vec<Gang>> {
    let role = (1u32..4, 0u32..4, 1u32..4, any::<bool>()).prop_map(|(count, gpus, cpus, fixed)| {
        let begin_at = if fixed { 15_004 } else { 0 };
        let ports = vec![PortSpec { label: "p".to_owned(), begin_at, count: 1 }];
        RoleRequest { name: "r".to_owned(), count, cpus, memory_mb: 100, gpus, ports }
    });
    let gang = (0i32..3, proptest::collection::vec(role, 1..3));
    proptest::collection::vec(gang.prop_map(|(priority, roles)| Gang { priority, roles }), 1..12)
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Submit,
    Pass {
        rebuild: bool,
    },
    /// One of the commands that are due is carried out.
    Obey(proptest::sample::Index),
    /// One of the commands of Stage and Prepare is refused.
    Veto(proptest::sample::Index),
    /// A task ends, if one runs.
    End(proptest::sample::Index),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<proptest::sample::Index>;
    let step = prop_oneof![
        2 => Just(Step::Submit),
        4 => any::<bool>().prop_map(|rebuild| Step::Pass { rebuild }),
        12 => index().prop_map(Step::Obey),
        2 => index().prop_map(Step::Veto),
        2 => index().prop_map(Step::End),
        1 => (1u64..90).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 20..160)
}

struct Job {
    priority: i32,
    request: Request,
    specs: Vec<RoleSpec>,
    run: Run,
}

struct World {
    nodes: Vec<NodeSnapshot>,
    snapshot: Snapshot,
    jobs: Vec<Job>,
    ledgers: HashMap<NodeName, Ledger>,
    now: Timestamp,
    /// Jobs that the nodes could hold.
    possible: BTreeSet<u64>,
}

impl World {
    fn new(nodes: Vec<NodeSnapshot>) -> Self {
        let ledger = |node: &NodeSnapshot| {
            let gpus: Vec<GpuUuid> = node.gpus.iter().map(|slot| slot.gpu.uuid.clone()).collect();
            Ledger::new(node.cpus_total, node.memory_mb_total, &gpus, node.ports.clone())
        };
        let ledgers = nodes.iter().map(|node| (node.name.clone(), ledger(node))).collect();
        let snapshot = cluster(nodes.clone());
        Self { nodes, snapshot, jobs: Vec::new(), ledgers, now: Timestamp(0), possible: BTreeSet::new() }
    }

    fn submit(&mut self, gang: Gang) {
        let id = self.jobs.len() as u64 + 1;
        let spec = |role: &RoleRequest| {
            let spec = json!({
                "name": role.name, "count": role.count, "cpus": role.cpus, "memory_mb": role.memory_mb, "shm_mb": 64,
                "gpus": role.gpus, "ports": [], "command": "true", "min_failed": 1, "min_succeeded": null,
            });
            serde_json::from_value(spec).unwrap()
        };
        let specs = gang.roles.iter().map(spec).collect();
        let (request, run) = (request(gang.roles), Run::new(RunId(id), JobId(id), 1, self.now, self.now));
        if EmptyCluster::of(&cluster(self.ready())).judge(&request, &Quotas::default()) == Feasibility::Possible {
            self.possible.insert(id);
        }
        self.jobs.push(Job { priority: gang.priority, request, specs, run });
    }

    /// What could not be reached does not count.
    fn ready(&self) -> Vec<NodeSnapshot> {
        self.nodes.iter().filter(|node| node.state == NodeState::Ready).cloned().collect()
    }

    fn promise_of(&self, job: &Job, role: u32, generation: Generation, seat: &Seat) -> Promise {
        let shape = &job.request.roles[role as usize];
        let ports = seat.ports.iter().flat_map(|label| label.ports.clone()).collect();
        let claim = Claim {
            gpus: seat.gpus.clone(),
            ports,
            cpus: shape.cpus,
            memory_mb: shape.memory_mb,
            ..Claim::default()
        };
        let host = self.snapshot.node(&seat.node).unwrap().host.clone();
        Promise { generation, node: seat.node.clone(), host, claim, passed: seat.passed }
    }

    fn promises(&self) -> Vec<Promise> {
        let of_job = |job: &Job| {
            let tasks = job.run.tasks.iter().filter(|task| !task.released);
            let seats = tasks.map(|task| self.promise_of(job, task.role, job.run.generation, &task.seat));
            let left = job.run.leftovers.iter();
            let left = left.map(|left| self.promise_of(job, left.role, left.generation, &left.seat));
            seats.chain(left).collect::<Vec<_>>()
        };
        self.jobs.iter().flat_map(of_job).collect()
    }

    fn pass(&mut self, rebuild: bool) {
        if rebuild {
            self.snapshot = rebuilt(&self.nodes, &self.promises());
        }
        let entry = |job: &Job| Waiting {
            job: job.run.job,
            priority: job.priority,
            submitted_at: Timestamp(job.run.job.0.cast_signed()),
            not_before: Some(job.run.not_before),
            request: Request { avoid: job.run.excluded_nodes(), ..job.request.clone() },
        };
        let waits = self.jobs.iter().filter(|job| job.run.phase == Phase::Waiting);
        let mut queue: Vec<Waiting> = waits.map(entry).collect();
        sort(&mut queue);
        let decisions = schedule(&mut self.snapshot, &queue, self.now);
        self.check_order(&queue, &decisions);
        for (id, decision) in decisions {
            let job = &mut self.jobs[id.0 as usize - 1];
            match decision {
                Decision::Placed(placements) => {
                    let seat = |placement: Placement| {
                        let Placement { role, index, node, gpus, ports, passed } = placement;
                        (role, index, Seat { node, ip: String::new(), gpus, ports, passed })
                    };
                    job.run.place(placements.into_iter().map(seat).collect(), self.now);
                }
                // As the controller does: those that vetoed are asked again.
                Decision::Blocked { .. } => job.run.avoid.clear(),
                Decision::OverQuota { .. } | Decision::BackingOff { .. } => {}
            }
        }
        self.check();
    }

    /// Nobody starts before one who was there first and asks for the same, or is placed on what is kept for the first.
    fn check_order(&self, queue: &[Waiting], decisions: &[(JobId, Decision)]) {
        let mut blocked: Vec<&Request> = Vec::new();
        let mut head = None;
        for (waiting, (_, decision)) in queue.iter().zip(decisions) {
            match decision {
                Decision::Blocked { reserved, .. } => {
                    blocked.push(&waiting.request);
                    head = head.or(reserved.then_some(waiting.job));
                }
                Decision::Placed(placements) => {
                    assert!(!blocked.contains(&&waiting.request), "job {} jumped the queue", waiting.job);
                    assert!(placements.iter().all(|placement| placement.passed == head));
                }
                _ => {}
            }
        }
    }

    /// No promise twice, and the kept books are the true ones.
    fn check(&self) {
        let promises = self.promises();
        check_promises(&self.nodes, &promises);
        let anew = rebuilt(&self.nodes, &promises);
        for (kept, anew) in self.snapshot.nodes().iter().zip(anew.nodes()) {
            assert_eq!((kept.cpus_free(), &kept.gpus), (anew.cpus_free(), &anew.gpus));
        }
    }

    /// Every command that is due, of every job.
    fn due(&self) -> Vec<(usize, Action)> {
        let of = |(at, job): (usize, &Job)| job.run.actions().into_iter().map(move |action| (at, action)).collect();
        self.jobs.iter().enumerate().flat_map(|pair| -> Vec<(usize, Action)> { of(pair) }).collect()
    }

    fn report(&mut self, at: usize, action: &Action, state: TaskState, exit: Option<Exit>) {
        let status = json!({
            "id": action.task, "generation": action.generation, "state": state, "started_at": null, "ended_at": null,
            "exit": exit, "holding": true, "notices": [],
        });
        let status: TaskStatus = serde_json::from_value(status).unwrap();
        let job = &mut self.jobs[at];
        job.run.reported(&status, &job.specs, self.now);
    }

    /// The agent does as it is told.
    fn obey(&mut self, at: usize, action: &Action) {
        let (task, generation) = (action.task, action.generation);
        match action.verb {
            Verb::Stage => self.jobs[at].run.staged(task.role, task.index, generation, self.now),
            Verb::Prepare => {
                let seat = self.jobs[at].run.seat_of(task.role, task.index, generation).unwrap().clone();
                let claim = self.promise_of(&self.jobs[at], task.role, generation, &seat).claim;
                let held = self.ledgers.get_mut(&action.node).unwrap().hold(task, generation, claim);
                assert_eq!(held, Ok(()), "an agent is promised what it does not have");
                self.report(at, action, TaskState::Ready, None);
            }
            Verb::Launch => self.report(at, action, TaskState::Running, None),
            Verb::Stop => {
                let exit = Exit::without_status(crate::domain::exit::ExitClass::Stopped, "stopped");
                self.report(at, action, TaskState::Stopped, Some(exit));
            }
            Verb::Release => {
                let seat = self.jobs[at].run.seat_of(task.role, task.index, generation).unwrap().clone();
                let ledger = self.ledgers.get_mut(&action.node).unwrap();
                if ledger.claim_of(task).is_some_and(|held| held.generation == generation) {
                    ledger.release(task);
                }
                let promise = self.promise_of(&self.jobs[at], task.role, generation, &seat);
                if self.jobs[at].run.released(task.role, task.index, generation) {
                    self.snapshot.give_back(&promise);
                }
            }
        }
    }

    fn veto(&mut self, at: usize, action: &Action) {
        let job = &mut self.jobs[at];
        job.run.failed(action, &CommandFailure::Node("no".to_owned()), &job.specs, self.now);
    }

    fn running(&self) -> Vec<(usize, Action)> {
        let mut running = Vec::new();
        for (at, job) in self.jobs.iter().enumerate() {
            for task in job.run.tasks.iter().filter(|task| task.state == TaskState::Running) {
                let (task_id, node) = (job.run.task_id(task.role, task.index), task.seat.node.clone());
                let generation = job.run.generation;
                running.push((at, Action { verb: Verb::Stop, task: task_id, generation, node, grace_ms: 0 }));
            }
        }
        running
    }

    fn step(&mut self, step: Step, coming: &mut Vec<Gang>) {
        match step {
            Step::Submit => coming.pop().into_iter().for_each(|gang| self.submit(gang)),
            Step::Pass { rebuild } => self.pass(rebuild),
            Step::Obey(which) => {
                let due = self.due();
                if !due.is_empty() {
                    let (at, action) = &due[which.index(due.len())];
                    self.obey(*at, action);
                }
            }
            Step::Veto(which) => {
                let refusable = |(_, action): &(usize, Action)| matches!(action.verb, Verb::Stage | Verb::Prepare);
                let due: Vec<(usize, Action)> = self.due().into_iter().filter(refusable).collect();
                if !due.is_empty() {
                    let (at, action) = &due[which.index(due.len())];
                    self.veto(*at, action);
                }
            }
            Step::End(which) => {
                let running = self.running();
                if !running.is_empty() {
                    let (at, action) = &running[which.index(running.len())];
                    self.report(*at, action, TaskState::Succeeded, Some(Exit::success()));
                }
            }
            Step::Wait(seconds) => {
                self.now = self.now.plus(Duration::from_secs(seconds));
                let now = self.now;
                for job in &mut self.jobs {
                    job.run.tick(now, 0.5);
                }
            }
        }
        self.check();
    }

    /// Agents obey, tasks end, time passes: until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..2000 {
            self.now = self.now.plus(Duration::from_secs(61));
            self.pass(false);
            while let Some((at, action)) = self.due().into_iter().next() {
                self.obey(at, &action);
            }
            self.running().into_iter().for_each(|(at, action)| {
                self.report(at, &action, TaskState::Succeeded, Some(Exit::success()));
            });
            self.check();
            let waits = |job: &Job| job.run.phase == Phase::Waiting && !self.possible.contains(&job.run.job.0);
            if self.jobs.iter().all(|job| waits(job) || job.run.settled) {
                break;
            }
        }
        for job in &self.jobs {
            let id = job.run.job;
            assert!(job.run.settled || !self.possible.contains(&id.0), "job {id} is {:?} for ever", job.run.phase);
        }
        let held = self.ledgers.values().flat_map(Ledger::held).count();
        assert_eq!((held, self.promises().len()), (0, 0), "what has ended holds nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn gangs_make_progress_whatever_agents_do(nodes in clusters(), gangs in gangs(), steps in steps()) {
        let (mut world, mut coming) = (World::new(nodes), gangs);
        for step in steps {
            world.step(step, &mut coming);
        }
        coming.into_iter().for_each(|gang| world.submit(gang));
        world.settle();
    }
}
