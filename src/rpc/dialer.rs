//! Clients of agents by the address they registered, with their connections kept.

use super::agent_client::AgentClient;
use super::credentials::Credentials;
use crate::api::agent::{AgentApi, AgentDialer};
use crate::domain::command::Error;
use crate::domain::ids::NodeName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most agents whose connections are kept; above a fleet's size, so that only addresses of the past are dropped.
const MAX_AGENTS: usize = 8192;

/// One client for each address, shared by all who dial it.
#[derive(Debug, Default)]
pub struct Dialer {
    agents: Mutex<Agents>,
    credentials: Credentials,
}

impl Dialer {
    /// Everything that is not a Unix socket is reached by TLS, where `credentials` have it.
    pub fn new(credentials: Credentials) -> Self {
        Self { agents: Mutex::default(), credentials }
    }
}

#[derive(Debug, Default)]
struct Agents {
    by_address: HashMap<(NodeName, String), (Arc<AgentClient>, u64)>,
    /// Counts calls, so that the longest unused is known.
    tick: u64,
}

impl AgentDialer for Dialer {
    fn dial(&self, node: &NodeName, address: &str) -> Result<Arc<dyn AgentApi>, Error> {
        let key = (node.clone(), address.to_owned());
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.tick += 1;
        let tick = agents.tick;
        if let Some((agent, used)) = agents.by_address.get_mut(&key) {
            *used = tick;
            return Ok(agent.clone());
        }
        let agent = Arc::new(AgentClient::of_node(node, address, &self.credentials)?);
        if agents.by_address.len() >= MAX_AGENTS {
            let oldest = agents.by_address.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| agents.by_address.remove(&key));
        }
        agents.by_address.insert(key, (agent.clone(), tick));
        Ok(agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_shared_by_address_and_bounded() {
        let dialer = Dialer::default();
        let first = dialer.dial(&"n".into(), "127.0.0.1:1").unwrap();
        let again = dialer.dial(&"n".into(), "127.0.0.1:1").unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &dialer.dial(&"n".into(), "127.0.0.1:2").unwrap()));
        assert!(dialer.dial(&"n".into(), "nonsense").is_err());
    }

    #[test]
    fn dialing_outside_a_runtime_is_an_error_and_no_panic() {
        assert!(Dialer::default().dial(&"n".into(), "127.0.0.1:1").unwrap_err().message.contains("runtime"));
    }
}
