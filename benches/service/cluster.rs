//! A controller and agents as processes, as operators run them: durable writes on, gRPC over loopback.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wharf::api::ControllerApi;
use wharf::api::controller::{EventFilter, Submit};
use wharf::api::stream::Answers;
use wharf::domain::event::Event;
use wharf::domain::principal::{Principal, Role};
use wharf::rpc::ControllerClient;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_wharf");
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    folder: PathBuf,
    pub address: String,
    pub client: ControllerClient,
    pub who: Principal,
    controller: Child,
    pub agents: Vec<Child>,
}

impl Cluster {
    /// `agents` nodes with one line of more settings each.
    pub async fn start(folder: &Path, agents: &[String]) -> Self {
        Self::start_with(folder, agents, &[]).await
    }

    /// The same with more in the daemons' environment.
    pub async fn start_with(folder: &Path, agents: &[String], env: &[(&str, &str)]) -> Self {
        fs::create_dir_all(folder).expect("the folder is ours");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free").port();
        let address = format!("127.0.0.1:{port}");
        let shown = folder.display();
        let settings = format!("data_dir = '{shown}/c'\nlisten = '{address}'\ninsecure = true\n");
        let controller = daemon(folder, "controller", &settings, env);
        let mut children = Vec::new();
        for (i, more) in agents.iter().enumerate() {
            let first = 20_000 + 1_000 * i;
            let settings = format!(
                "data_dir = '{shown}/a{i}'\nrun_dir = '{shown}/r{i}'\nname = 'n{i}'\ncontroller = '{address}'\n\
                 listen = 'unix:{shown}/a{i}.sock'\ninsecure = true\ntask_ip = '127.0.0.1'\ncpus = 256\nmemory_mb = 400000\n\
                 ports = '{first}-{}'\npolicy.users = ['0-4294967295']\n{more}\n",
                first + 999
            );
            children.push(daemon(folder, &format!("agent{i}"), &settings, env));
        }
        let client = ControllerClient::new(&[&address]).expect("the address is one");
        let who = Principal { user: "bench".to_owned(), uid: None, roles: vec![Role::User, Role::Operator] };
        let cluster = Self { folder: folder.to_owned(), address, client, who, controller, agents: children };
        cluster.wait_ready(agents.len()).await;
        cluster
    }

    /// Kills an agent as a crash does and starts it again; its tasks go on. When it was started.
    pub fn crash_agent(&mut self, at: usize) -> Instant {
        self.agents[at].kill().expect("it runs");
        self.agents[at].wait().expect("it is our child");
        let started = Instant::now();
        // Its settings are there, and its log begins anew.
        self.agents[at] = spawn(&self.folder, &format!("agent{at}"), &[]);
        started
    }

    /// What an agent has logged since its start.
    pub fn log_of_agent(&self, at: usize) -> String {
        fs::read_to_string(self.folder.join(format!("agent{at}.log"))).unwrap_or_default()
    }

    /// Where an agent listens.
    pub fn address_of_agent(&self, at: usize) -> String {
        format!("unix:{}/a{at}.sock", self.folder.display())
    }

    async fn wait_ready(&self, wanted: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let nodes = self.client.list_nodes(&self.who).await.unwrap_or_default();
            if nodes.iter().filter(|node| node.state == "READY").count() == wanted {
                return;
            }
            assert!(Instant::now() < end, "the nodes are not ready; see the logs in {}", self.folder.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn submit(&self, file: &str) -> u64 {
        let submit =
            Submit { file_name: "bench.json".into(), content: file.as_bytes().to_vec(), ..Submit::default() };
        self.client.submit(&self.who, submit).await.expect("the job is accepted").job_id
    }

    /// Everything that happens from now on.
    pub async fn events(&self) -> Answers<Event> {
        let filter = EventFilter { after: None, follow: true, ..EventFilter::default() };
        self.client.watch(&self.who, filter).await.expect("events can be followed")
    }

    /// Waits until the job has ended and everything it held is given back.
    pub async fn wait_ended(&self, job: u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let view = self.client.get_job(&self.who, &job.to_string(), None).await.expect("the job is known");
            if matches!(view.state.as_str(), "SUCCEEDED" | "FAILED" | "STOPPED") {
                assert_eq!(view.state, "SUCCEEDED", "job {job}: {:?}", view.reason);
                let nodes = self.client.list_nodes(&self.who).await.expect("the controller answers");
                if nodes.iter().all(|node| node.gpus_free == node.gpus_total) {
                    return;
                }
            }
            assert!(Instant::now() < end, "job {job} does not end: {view:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_running(&self, job: u64, tasks: u32) {
        let end = Instant::now() + PATIENCE;
        loop {
            let view = self.client.get_job(&self.who, &job.to_string(), None).await;
            if view.is_ok_and(|view| view.tasks_running == tasks) {
                return;
            }
            assert!(Instant::now() < end, "job {job} does not run; see the logs in {}", self.folder.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(&self, job: u64) {
        self.client.stop_job(&self.who, &job.to_string(), Some(0)).await.expect("the job is stopped");
        let end = Instant::now() + PATIENCE;
        loop {
            let view = self.client.get_job(&self.who, &job.to_string(), None).await.expect("the job is known");
            if view.state == "STOPPED" {
                return;
            }
            assert!(Instant::now() < end, "job {job} does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain([&mut self.controller]) {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn daemon(folder: &Path, name: &str, settings: &str, env: &[(&str, &str)]) -> Child {
    fs::write(folder.join(format!("{name}.toml")), settings).expect("the folder is ours");
    spawn(folder, name, env)
}

/// A daemon whose settings are there.
fn spawn(folder: &Path, name: &str, env: &[(&str, &str)]) -> Child {
    let file = folder.join(format!("{name}.toml"));
    let log = fs::File::create(folder.join(format!("{name}.log"))).expect("the folder is ours");
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let mut command = Command::new(PROGRAM);
    command.args([kind, "--config"]).arg(&file).stdin(Stdio::null()).stderr(log).stdout(Stdio::null());
    command.envs(env.iter().copied()).spawn().expect("wharf starts")
}

/// A job of one role.
pub fn job(name: &str, image: &str, tasks: u32, command: &str) -> String {
    serde_json::json!({
        "jobName": name, "image": image, "taskRoles": [{
            "name": "main", "taskNumber": tasks, "cpuNumber": 1, "memoryMB": 128, "gpuNumber": 0, "command": command
        }]
    })
    .to_string()
}
