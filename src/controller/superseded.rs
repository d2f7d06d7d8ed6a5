//! Whether another controller leads, for one that cannot ask its store: agents register with whoever leads, and what they
//! remember of that only grows. Without this a controller that was cut off from the store alone would answer what it
//! knew then for as long as that lasts, while everybody else follows another.

use super::Controller;
use super::core::read;
use super::dispatch::controller_principal;
use crate::domain::ids::NodeName;
use std::time::Duration;
use tokio::task::JoinSet;

/// Agents asked at a time; others the next time.
const ASKED: usize = 8;
const LIMIT: Duration = Duration::from_secs(2);

impl Controller {
    /// A node whose agent has registered with a later term than this controller had. `round` grows with every call.
    pub(super) async fn superseded(&self, round: usize) -> Option<NodeName> {
        let (term, nodes) = {
            let state = read(&self.shared);
            let nodes: Vec<_> = state.nodes.iter().filter(|(_, node)| node.reachable).collect();
            let first = (round * ASKED).checked_rem(nodes.len()).unwrap_or(0);
            let some = nodes.iter().cycle().skip(first).take(ASKED.min(nodes.len()));
            let some: Vec<_> = some.map(|(name, node)| ((*name).clone(), node.registration.clone())).collect();
            (state.term, some)
        };
        let mut asked = JoinSet::new();
        for (name, node) in nodes {
            let Ok(agent) = self.parts.dialer.dial(&name, &node.address) else { continue };
            asked.spawn(async move { (name, node.node_uid, agent.get_node(&controller_principal()).await) });
        }
        let found = async {
            while let Some(answer) = asked.join_next().await {
                // Another cluster's agent may have the address by now.
                if let Ok((name, uid, Ok(info))) = answer
                    && info.node_uid == uid
                    && info.term > term
                {
                    return Some(name);
                }
            }
            None
        };
        tokio::time::timeout(LIMIT, found).await.ok().flatten()
    }
}
