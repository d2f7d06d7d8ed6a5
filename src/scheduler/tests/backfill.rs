//! Who may pass a job that waits: known cases.

use super::*;

fn waiting(job: u64, request: Request) -> Waiting {
    let submitted_at = Timestamp(i64::try_from(job).unwrap());
    Waiting { job: JobId(job), priority: 0, submitted_at, not_before: None, request }
}

/// `count` tasks with this many GPUs and CPUs each.
fn tasks(count: u32, gpus: u32, cpus: u32) -> Request {
    request(vec![RoleRequest { cpus, ports: Vec::new(), ..role(count, gpus) }])
}

fn typed(kind: &str, request: Request) -> Request {
    Request { gpu_types: vec![kind.to_owned()], ..request }
}

fn fixed(port: u16, mut request: Request) -> Request {
    request.roles[0].ports = vec![PortSpec { label: "p".to_owned(), begin_at: port, count: 1 }];
    request
}

/// A cluster whose first jobs run, as a test changes it.
struct Running {
    nodes: Vec<NodeSnapshot>,
    snapshot: Snapshot,
    promises: BTreeMap<TaskId, Promise>,
}

impl Running {
    fn new(nodes: Vec<NodeSnapshot>, running: &[Request]) -> Self {
        let mut cluster = Self { snapshot: cluster(nodes.clone()), nodes, promises: BTreeMap::new() };
        let running: Vec<Waiting> = (1..).zip(running).map(|(job, request)| waiting(job, request.clone())).collect();
        let placed = cluster.pass(&running);
        assert_eq!(placed.len(), running.len(), "to begin with");
        cluster
    }

    /// One pass; the jobs that were placed, each with its nodes.
    fn pass(&mut self, queue: &[Waiting]) -> Vec<(u64, Vec<NodeName>)> {
        let decisions = schedule(&mut self.snapshot, queue, Timestamp(0));
        let mut placed = Vec::new();
        for (waiting, (job, decision)) in queue.iter().zip(decisions) {
            let Decision::Placed(placements) = decision else { continue };
            self.promises.extend(gang(&self.snapshot, job.0, &waiting.request, &placements));
            placed.push((job.0, placements.into_iter().map(|placement| placement.node).collect()));
        }
        check_promises(&self.nodes, self.promises.values());
        placed
    }

    fn end(&mut self, job: u64) {
        for (_, promise) in self.promises.extract_if(.., |task, _| task.job == JobId(job)) {
            self.snapshot.give_back(&promise);
        }
    }
}

#[test]
fn those_behind_pass_beside_the_room_of_the_head_only() {
    let small = |name: &str| node(name, "X", 2);
    let mut mixed = node("m", "X", 2);
    mixed.gpus[1].gpu.gpu_type = "Y".to_owned();
    let ports = |request: Request| fixed(8000, request);
    // Nodes have 64 CPUs. What runs, the head, and who behind it is to start, on which node.
    type Case = (&'static str, Vec<NodeSnapshot>, Vec<Request>, Request, Vec<(Request, Option<&'static str>)>);
    let cases: Vec<Case> = vec![
        (
            "a job without GPUs passes one that waits for a GPU",
            vec![small("a")],
            vec![tasks(1, 2, 1)],
            tasks(1, 1, 1),
            vec![(tasks(1, 0, 1), Some("a"))],
        ),
        (
            "a free GPU that the head does not need is nobody's",
            vec![small("a")],
            vec![tasks(1, 1, 64 - 8)],
            tasks(1, 1, 16),
            vec![(tasks(1, 1, 1), Some("a")), (tasks(1, 0, 1), Some("a"))],
        ),
        (
            "small jobs start where the head will not be",
            vec![node("a", "X", 8), node("b", "X", 2)],
            vec![tasks(1, 8, 1)],
            tasks(1, 8, 1),
            vec![(tasks(1, 1, 1), Some("b"))],
        ),
        (
            "what the head is going to have is not for others",
            vec![small("a"), small("b")],
            vec![tasks(1, 1, 1), tasks(1, 2, 1)],
            tasks(2, 2, 1),
            vec![(tasks(1, 1, 1), None), (tasks(1, 0, 1), Some("b"))],
        ),
        (
            "a whole gang passes or none of it",
            vec![small("a"), small("b")],
            vec![tasks(1, 1, 1), tasks(1, 2, 1)],
            tasks(1, 2, 1),
            vec![(tasks(2, 1, 1), None), (tasks(1, 1, 1), None)],
        ),
        (
            "the first choice of nodes is the head's, another is not",
            vec![node("a", "X", 4), node("b", "Y", 8)],
            vec![typed("X", tasks(1, 1, 1))],
            typed("X", tasks(1, 4, 1)),
            vec![(tasks(1, 1, 1), Some("b"))],
        ),
        (
            "a head of a whole node leaves its CPUs that it does not need",
            vec![small("a")],
            vec![tasks(1, 1, 1)],
            tasks(1, 2, 60),
            vec![(tasks(1, 0, 5), None), (tasks(1, 0, 4), Some("a")), (tasks(1, 0, 1), None)],
        ),
        (
            "GPUs of another type than the head accepts are nobody's",
            vec![mixed],
            vec![typed("X", tasks(1, 1, 1))],
            typed("X", tasks(1, 1, 1)),
            vec![(typed("Y", tasks(1, 1, 1)), Some("m"))],
        ),
        (
            "a port that the head is going to have is not for others",
            vec![small("a")],
            vec![tasks(1, 2, 1)],
            ports(tasks(1, 1, 1)),
            vec![(ports(tasks(1, 0, 1)), None), (fixed(8001, tasks(1, 0, 1)), Some("a"))],
        ),
        (
            "neither is it on another node of the host",
            vec![node_on("a", "h", "X", 2, nvswitch), node_on("b", "h", "X", 0, nvswitch), node("c", "X", 0)],
            vec![tasks(1, 2, 1)],
            ports(tasks(1, 1, 1)),
            vec![(ports(tasks(1, 0, 1)), Some("c")), (ports(tasks(1, 0, 1)), None)],
        ),
    ];
    for (case, nodes, running, head, behind) in cases {
        let mut cluster = Running::new(nodes, &running);
        let mut queue = vec![waiting(100, head)];
        queue.extend((101..).zip(&behind).map(|(job, (request, _))| waiting(job, request.clone())));
        let placed = cluster.pass(&queue);
        let expected: Vec<(u64, &str)> =
            (101..).zip(&behind).filter_map(|(job, (_, node))| Some((job, (*node)?))).collect();
        let found: Vec<(u64, &str)> = placed.iter().map(|(job, nodes)| (*job, nodes[0].0.as_str())).collect();
        assert_eq!(found, expected, "{case}");
        assert!(cluster.pass(&queue[..1]).is_empty(), "{case}: the head has to wait");
        (1..=running.len()).for_each(|job| cluster.end(job as u64));
        assert_eq!(cluster.pass(&queue[..1]).len(), 1, "{case}: the head waits for nothing else");
    }
}

#[test]
fn small_jobs_that_come_one_after_another_never_eat_the_heads_room() {
    for rebuild in [false, true] {
        let mut cluster = Running::new(vec![node("a", "X", 2)], &[tasks(1, 2, 4)]);
        let mut head = vec![waiting(2, tasks(1, 1, 32))];
        let mut running = Vec::new();
        for job in 10..40 {
            head.truncate(1);
            head.push(waiting(job, tasks(1, 0, 8)));
            running.extend(cluster.pass(&head).into_iter().map(|(job, _)| job));
            if job == 25 {
                cluster.end(running.remove(0));
            }
            if rebuild {
                cluster.snapshot = rebuilt(&cluster.nodes, cluster.promises.values());
            }
        }
        // 64 CPUs: 32 for the head, four times 8 for others, one of which ended and was followed by another.
        assert_eq!(running, [11, 12, 13, 26], "rebuild: {rebuild}");
        cluster.end(1);
        assert_eq!(cluster.pass(&head[..1]), [(2, vec!["a".into()])]);
    }
}

#[test]
fn a_head_moves_over_to_other_gpus_of_its_node() {
    // Two of four are in use. Three are reserved, whichever; the one beside them can be had.
    let mut cluster = Running::new(vec![node("a", "X", 4)], &[tasks(1, 2, 1)]);
    let queue = [waiting(2, tasks(1, 3, 1)), waiting(3, tasks(1, 1, 1)), waiting(4, tasks(1, 1, 2))];
    assert_eq!(cluster.pass(&queue), [(3, vec!["a".into()])]);
    cluster.end(1);
    assert_eq!(cluster.pass(&queue[..1]).len(), 1);
}

#[test]
fn when_a_node_is_lost_nobody_new_gets_in_the_way() {
    let nodes = vec![node("a", "X", 2), node("b", "X", 2)];
    let mut cluster = Running::new(nodes, &[tasks(1, 2, 1)]);
    let queue = |job| [waiting(2, tasks(1, 2, 40)), waiting(job, tasks(1, 0, 30))];
    // On b, too, there is something to wait for.
    cluster.pass(&[waiting(9, tasks(1, 1, 1))]);
    assert_eq!(cluster.pass(&queue(10)), [(10, vec!["a".into()])], "the head is to be on b");
    cluster.nodes[1].state = NodeState::Unreachable;
    cluster.snapshot = rebuilt(&cluster.nodes, cluster.promises.values());
    assert!(cluster.pass(&queue(11)).is_empty());
    let small = [waiting(2, tasks(1, 2, 40)), waiting(12, tasks(1, 0, 20)), waiting(13, tasks(1, 0, 5))];
    assert_eq!(cluster.pass(&small), [(12, vec!["a".into()]),], "beside the head, if not beside all");
    cluster.end(1);
    cluster.end(10);
    assert_eq!(cluster.pass(&queue(14)[..1]).len(), 1);
}

#[test]
fn a_node_that_the_head_avoids_for_the_moment_is_room_for_it_all_the_same() {
    // It would fit now but for the veto. Who is behind it must not use the moment.
    let mut vetoed = Running::new(vec![node("a", "X", 2)], &[]);
    let head = waiting(10, tasks(1, 2, 1).avoiding("a".into()));
    assert_eq!(vetoed.pass(&[head.clone(), waiting(11, tasks(1, 1, 1))]), []);
    // Where another node will do, that is the one which is kept.
    let mut another = Running::new(vec![node("a", "X", 2), node("b", "X", 2)], &[tasks(1, 1, 1)]);
    let busy = another.promises.values().next().unwrap().node.clone();
    let idle = if busy.0 == "a" { "b" } else { "a" };
    let head = waiting(10, tasks(1, 2, 1).avoiding(idle.into()));
    let passed = another.pass(&[head, waiting(11, tasks(1, 1, 1)), waiting(12, tasks(1, 2, 1))]);
    assert_eq!(passed, [(11, vec![idle.into()])], "one GPU of the node that it avoids, none of the other");
}
