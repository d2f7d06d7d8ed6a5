//! Both services over real sockets, loopback TCP and Unix, against implementations in memory.

mod agent;
mod controller;
mod failures;
mod fakes;
pub(crate) mod fuzz;
mod identity;
mod messages;
mod samples;
mod serving;
mod streams;
mod tls;
mod web;

use super::*;
use crate::domain::command::{CommandHeader, Error};
use crate::domain::ids::{Generation, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::principal::{Principal, Role};
use fakes::{FakeAgent, FakeController};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here may take longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Nothing proves who calls: most of these tests are of what is carried.
fn believed() -> Security {
    Security::plain(Plain::Believed)
}

/// A server and the addresses it listens on: TCP, then Unix.
struct Served {
    addresses: Vec<String>,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), Error>>,
    dir: tempfile::TempDir,
}

impl Served {
    async fn new(routes: Routes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", dir.path().join("s.sock").display());
        let listeners = bind(&["127.0.0.1:0", &unix], false).await.unwrap();
        let addresses = listeners.iter().map(|listener| listener.address().to_owned()).collect();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listeners, routes, shutdown.clone()));
        Self { addresses, shutdown, server, dir }
    }

    async fn agent(agent: &Arc<FakeAgent>) -> Self {
        Self::new(agent_routes(agent.clone(), believed()).await.unwrap()).await
    }

    async fn controller(controller: &Arc<FakeController>) -> Self {
        Self::new(controller_routes(controller.clone(), believed()).await.unwrap()).await
    }

    fn tcp(&self) -> &str {
        &self.addresses[0]
    }

    fn agents(&self) -> Vec<AgentClient> {
        self.addresses.iter().map(|address| AgentClient::new(address).unwrap()).collect()
    }

    fn controllers(&self) -> Vec<ControllerClient> {
        self.addresses.iter().map(|address| ControllerClient::new(&[address]).unwrap()).collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.server).await.unwrap().unwrap().unwrap();
    }
}

fn alice() -> Principal {
    Principal { user: "alice".into(), uid: Some(1000), roles: vec![Role::User, Role::Operator, Role::Controller] }
}

fn header() -> CommandHeader {
    CommandHeader {
        cluster_id: "c-1".into(),
        term: Term(3),
        generation: Generation(9),
        request_id: "r-1".into(),
        deadline_ms: 5000,
        principal: alice(),
        level: Level(6),
    }
}

fn task(job: u64) -> TaskId {
    format!("{job}.{job}.0.1").parse().unwrap()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what} within {DEADLINE:?}"));
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} within {DEADLINE:?}"))
}
