//! A cluster whose callers have to prove who they are: how its nodes join, and what people have.

use super::cluster::Cluster;
use super::running::{Output, Running};
use super::wait::until;
use std::fs;
use std::path::PathBuf;

impl Cluster {
    /// All controllers on TCP.
    pub fn tcp_addresses(&self) -> String {
        let second = self.second_port().map(|port| format!(",127.0.0.1:{port}"));
        std::iter::once(self.tcp()).chain(second).collect()
    }

    /// Gives the second controller the first one's authority, as an operator would.
    pub fn share_authority(&self) {
        let (from, to) = (self.path("c/cluster"), self.path("c2/cluster"));
        for name in ["ca.pem", "seal.key"] {
            until(&format!("the first controller has its {name}"), || from.join(name).exists().then_some(()));
        }
        fs::create_dir_all(&to).expect("the folder is ours");
        for entry in fs::read_dir(from).expect("it is there").flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("the folder is ours");
        }
    }

    /// A token, made by whoever runs the controller.
    #[track_caller]
    pub fn token(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["token", "create"].iter().chain(args).copied().collect();
        // Until it leads it makes none.
        let made = until("a token is made", || Some(self.json_or_none(&args)?["token"].as_str()?.to_owned()));
        assert!(made.starts_with("wharf1."), "{made}");
        made
    }

    fn json_or_none(&self, args: &[&str]) -> Option<serde_json::Value> {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        let output = self.cli(&args);
        assert!(matches!(output.code, 0 | 3), "{}", output.errors());
        (output.code == 0).then(|| output.json())
    }

    /// Makes the machine of agent `i` a node.
    #[track_caller]
    pub fn join(&self, i: usize) {
        let token = self.token(&["--role", "agent"]);
        self.join_with(i, &token).expect(0);
    }

    #[track_caller]
    pub fn join_with(&self, i: usize, token: &str) -> Output {
        let config = self.path(&format!("agent{i}.toml"));
        let config = config.to_str().expect("a text");
        let mut running =
            Running::start(super::cluster::wharf(&["agent", "join", &self.tcp_addresses(), "-", "--config", config]));
        running.feed(format!("{token}\n").as_bytes());
        running.finish()
    }

    /// A command of somebody elsewhere with this token.
    #[track_caller]
    pub fn as_token(&self, token: &str, args: &[&str]) -> Output {
        self.as_token_with(token, args, b"")
    }

    #[track_caller]
    pub fn as_token_with(&self, token: &str, args: &[&str], input: &[u8]) -> Output {
        let mut command = super::cluster::wharf(args);
        command.env("WHARF_CONTROLLER", self.tcp_addresses()).env("WHARF_TOKEN", token);
        let mut running = Running::start(command);
        running.feed(input);
        running.finish()
    }

    /// What the node's agent belongs to the cluster by.
    pub fn identity(&self, i: usize) -> serde_json::Value {
        let text = fs::read_to_string(self.identity_file(i)).expect("the node has joined");
        serde_json::from_str(&text).expect("it is JSON")
    }

    pub fn identity_file(&self, i: usize) -> PathBuf {
        self.path(&format!("a{i}/identity.json"))
    }

    /// The lines of a daemon's audit log: what was done, then what was refused.
    pub fn audited(&self, daemon: &str) -> Vec<serde_json::Value> {
        let read = |name: &str| fs::read_to_string(self.path(daemon).join(name)).unwrap_or_default();
        let text = read("audit.jsonl") + &read("audit-refused.jsonl");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
