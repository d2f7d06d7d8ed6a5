//! Agents that lie, babble or hang: the controller stays up, says which one it was, and goes on with the others.

use crate::harness::{Cluster, attack, job, role, until};
use async_trait::async_trait;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wharf::api::agent::{NodeInfo, WatchedStatus};
use wharf::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use wharf::api::{AgentApi, ControllerApi};
use wharf::domain::command::{CommandHeader, Error, Registration};
use wharf::domain::exit::Exit;
use wharf::domain::gpu::{Gpu, Topology};
use wharf::domain::ids::{GpuUuid, JobId, JournalId, NodeName, NodeUid, RunId, TaskId, Term};
use wharf::domain::principal::{Principal, Role};
use wharf::domain::secret::TaskSecrets;
use wharf::domain::task::{Inventory, TaskSpec, TaskState, TaskStatus};
use wharf::domain::time::Timestamp;
use wharf::rpc::{Plain, Security};

/// What an agent might say to anything: about another task, in another generation, in an impossible state.
#[derive(Debug)]
struct Liar;

fn lie(header: &CommandHeader, id: TaskId) -> TaskStatus {
    TaskStatus {
        id: TaskId { job: JobId(u64::MAX), run: RunId(0), role: id.role + 7, index: u32::MAX },
        generation: wharf::domain::ids::Generation(header.generation.0.wrapping_sub(99)),
        state: TaskState::Succeeded,
        started_at: Some(Timestamp(i64::MAX)),
        ended_at: Some(Timestamp(i64::MIN)),
        exit: Some(Exit { code: Some(i32::MIN), signal: Some(-5), ..Exit::success() }),
        holding: true,
        notices: vec!["\u{0}\u{1b}[2J".repeat(500)],
        progress: Some("\u{0}\u{1b}[2J".repeat(500)),
        held_until: Some(Timestamp(i64::MIN)),
    }
}

#[async_trait]
impl AgentApi for Liar {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        Ok(lie(&header, task.id))
    }

    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        Ok(lie(&header, task.id))
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        _: Vec<(String, String)>,
        _: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        Ok(lie(&header, id))
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, _: u64) -> Result<TaskStatus, Error> {
        Ok(lie(&header, id))
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        Ok(lie(&header, id))
    }

    async fn list_tasks(&self, _: &Principal, _: u32, _: &str) -> Result<(Vec<TaskStatus>, String), Error> {
        // Pages without end.
        Ok((Vec::new(), "more".into()))
    }

    async fn get_node(&self, _: &Principal) -> Result<NodeInfo, Error> {
        Err(Error::internal("what is a node?"))
    }

    async fn watch(&self, _: &Principal, _: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        Err(Error::internal("watch what?"))
    }

    async fn logs(&self, _: &Principal, _: LogQuery) -> Result<Answers<LogBatch>, Error> {
        Err(Error::internal("logs of what?"))
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        Err(Error::internal("exec where?"))
    }
}

/// An agent that is no process of ours: heartbeats come from here, commands go to `address`.
async fn join(client: &wharf::rpc::ControllerClient, name: &str, address: &str) -> Result<(), Error> {
    let gpu = |index: u32| Gpu {
        uuid: GpuUuid(format!("GPU-{name}-{index}")),
        index,
        minor: index,
        model: "P100".into(),
        gpu_type: "P100".into(),
        memory_mb: 16_000,
        pci: format!("00000000:0{index}:00.0"),
        numa_node: None,
        mig_parent: None,
        ..Gpu::default()
    };
    let registration = Registration {
        name: NodeName(name.into()),
        node_uid: NodeUid(format!("uid-{name}")),
        journal_id: JournalId(format!("journal-{name}")),
        address: address.into(),
        task_ip: "127.0.0.1".into(),
        version: "0.1.0".into(),
        inventory: Inventory {
            cpus: 8,
            memory_mb: 8000,
            gpus: (0..2).map(gpu).collect(),
            topology: Topology::default(),
            ports: (29_000, 29_100),
            labels: Default::default(),
            runtime: "process".into(),
            gpu_driver: Default::default(),
            gpu_conditions: Vec::new(),
            features: Vec::new(),
        },
        cluster_id: String::new(),
        term: Term(0),
        level: wharf::domain::level::Level::OURS,
    };
    client.register(&agent_principal(name), registration).await.map(|_| ())
}

fn agent_principal(name: &str) -> Principal {
    Principal { user: name.into(), uid: None, roles: vec![Role::Agent] }
}

/// Keeps the fake node alive in the controller's eyes, for as long as the runtime lives.
fn keep_alive(runtime: &tokio::runtime::Runtime, cluster: &Cluster, name: &'static str, address: String) {
    let client =
        runtime.block_on(async { wharf::rpc::ControllerClient::new(&[cluster.address()]).expect("an address") });
    runtime.block_on(join(&client, name, &address)).expect("an agent may join");
    runtime.spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            ticks.tick().await;
            let heartbeat = wharf::domain::command::Heartbeat {
                node_uid: NodeUid(format!("uid-{name}")),
                journal_id: JournalId(format!("journal-{name}")),
                samples: Vec::new(),
                progress: Vec::new(),
                faults_version: 0,
                faults: None,
                going_out: None,
            };
            match client.heartbeat(&agent_principal(name), heartbeat).await {
                Ok(reply) if reply.register_again => drop(join(&client, name, &address).await),
                _ => {}
            }
        }
    });
}

/// A job that only the fake node has the GPUs for; whatever becomes of it, the rest has to go on.
fn try_it(cluster: &Cluster, name: &str) {
    let mut wants = role("main", 1, "true");
    wants["gpuNumber"] = json!(1);
    let mut file = job("for-the-fake", &[wants]);
    file["gpuType"] = json!("P100");
    let fake = cluster.submit(&file);
    // The controller says which agent it was: in the job's reason, in its explanation or in an event.
    until("the agent is named", || {
        let text = format!(
            "{} {} {}",
            cluster.show(&fake)["reason"],
            cluster.json(&["job", "explain", &fake]),
            cluster.cli(&["--json", "events", "--job", &fake]).text()
        );
        text.contains(&format!("{name} ")).then_some(()).or_else(|| {
            let events = cluster.cli(&["--json", "events", "--job", &fake]).expect(0).json_lines();
            let refused = events.iter().any(|event| event["node"] == name && event["kind"] != "task.started");
            refused.then_some(())
        })
    });
    assert_ne!(cluster.show(&fake)["state"], "SUCCEEDED", "nothing has run");
    let good = cluster.submit(&job("for-the-real", &[role("main", 1, "echo fine")]));
    assert_eq!(cluster.wait_end(&good)["state"], "SUCCEEDED");
    assert_eq!(cluster.cli(&["logs", &good]).expect(0).text(), "fine\n");
    let nodes = cluster.json(&["nodes"]);
    assert!(
        nodes
            .as_array()
            .is_some_and(|nodes| nodes.iter().any(|node| node["name"] == "n0" && node["state"] == "READY"))
    );
    cluster.cli(&["stop", &fake]).expect(0);
    assert!(cluster.controller_pid().is_some(), "the controller has ended");
}

#[test]
fn an_agent_that_lies_is_refused() {
    let _row =
        attack("hostile agents", "an agent that lies about everything", 1, "named, nothing believed, others go on");
    let cluster = Cluster::start(&["none"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let address = format!("unix:{}", cluster.path("liar.sock").display());
    let listeners = runtime.block_on(wharf::rpc::bind(&[&address], false)).expect("the socket can be bound");
    let routes = runtime
        .block_on(wharf::rpc::agent_routes(Arc::new(Liar), Security::plain(Plain::Believed)))
        .expect("routes are built");
    runtime.spawn(wharf::rpc::serve(listeners, routes, CancellationToken::new()));
    keep_alive(&runtime, &cluster, "liar", address);
    try_it(&cluster, "liar");
}

#[test]
fn an_agent_that_babbles_is_refused() {
    let _row = attack("hostile agents", "an agent that speaks no gRPC", 1, "named, others go on");
    let cluster = Cluster::start(&["none"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nServer: coffee\r\n\r\n\x00\xff\x13\x37");
                let _ = stream.read(&mut [0; 1000]);
            });
        }
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    keep_alive(&runtime, &cluster, "babbler", address);
    try_it(&cluster, "babbler");
}

#[test]
fn reports_that_make_no_sense_change_nothing() {
    let _row =
        attack("hostile agents", "reports of other nodes' tasks, a second agent of a name", 4, "nothing changed");
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&job("real", &[role("main", 1, "sleep 600")]));
    let before = cluster.wait_running(&id);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let sent = runtime.block_on(async {
        let client = wharf::rpc::ControllerClient::new(&[cluster.address()]).expect("an address");
        join(&client, "liar", "127.0.0.1:1").await.expect("an agent may join");
        let number: u64 = id.parse().expect("a number");
        let task = TaskId { job: JobId(number), run: RunId(number), role: 0, index: 0 };
        let mut sent = Vec::new();
        // Of a task on another node, of tasks that are nowhere, of a node that nobody knows.
        for (uid, task) in [("uid-liar", task), ("uid-liar", TaskId { role: 9, ..task }), ("uid-none", task)] {
            let status = TaskStatus {
                id: task,
                generation: wharf::domain::ids::Generation(u64::MAX),
                state: TaskState::Failed,
                exit: Some(Exit { code: Some(1), ..Exit::success() }),
                started_at: None,
                ended_at: None,
                holding: false,
                notices: Vec::new(),
                progress: None,
                held_until: None,
            };
            let statuses = vec![wharf::domain::command::SequencedStatus { sequence: u64::MAX, status }];
            let journal = JournalId("journal-liar".into());
            sent.push(client.report(&agent_principal("liar"), NodeUid(uid.into()), journal, statuses).await);
        }
        // A second agent of a living one's name.
        sent.push(join(&client, "n0", "127.0.0.1:1").await.map(|()| 0));
        sent
    });
    assert!(sent[3].as_ref().is_err_and(|error| error.message.contains("n0")), "{sent:?}");
    let now = cluster.show(&id);
    assert_eq!((&now["state"], &now["tasks"]), (&before["state"], &before["tasks"]));
    cluster.cli(&["stop", &id]).expect(0);
    assert_eq!(cluster.wait_end(&id)["state"], "STOPPED");
}
