//! The whole controller against agents in memory: what it decides, delivers, survives, and lets go of.

mod agent;
mod big;
mod clocks;
mod cluster;
mod draining;
mod events;
mod forgetting;
pub(crate) mod fuzz;
mod hardware;
mod jobs;
mod levels;
mod life;
mod lost;
mod nodes;
mod placing;
mod reading;
mod records;
mod restart;
mod rollback;
mod secrets;
mod stopping;
mod store_failures;
mod transfer;

use crate::domain::exit::{Exit, ExitClass};
use crate::domain::principal::{Principal, Role};
use crate::domain::time::Timestamp;
use std::time::Duration;

/// 2026-11-22T12:00:00Z.
const NOON: Timestamp = Timestamp(1_795_348_800_000_000_000);
const PATIENCE: Duration = Duration::from_secs(180);

fn user(name: &str) -> Principal {
    Principal { user: name.to_owned(), uid: None, roles: vec![Role::User] }
}

fn failure(code: i32) -> Exit {
    Exit {
        code: Some(code),
        ..Exit::without_status(ExitClass::User, format!("the command ended with status {code}"))
    }
}

/// What agents are to the controller.
fn node_agent(node: &str) -> Principal {
    Principal { roles: vec![Role::Agent], ..user(node) }
}

fn operator() -> Principal {
    Principal { roles: vec![Role::Operator], ..user("olga") }
}
