//! Which nodes a selector admits, found once for each selector and node.
//!
//! Labels and names change only with the nodes, and then the whole snapshot is made anew. So a selector costs one walk
//! over the nodes, and from then on one bit for each.

use super::snapshot::NodeSnapshot;
use crate::domain::placement::NodeSelector;
use std::collections::HashMap;
use std::sync::Arc;

/// Selectors that are remembered: a bit for each node and selector, 5 MB with 10,000 nodes.
const REMEMBERED: usize = 4096;

/// A bit for each position of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Eligible(Vec<u64>);

impl Eligible {
    pub(super) fn of(selector: &NodeSelector, nodes: &[NodeSnapshot]) -> Self {
        let mut bits = vec![0; nodes.len().div_ceil(64)];
        for (at, node) in nodes.iter().enumerate() {
            bits[at / 64] |= u64::from(selector.check(&node.name.0, &node.labels).is_ok()) << (at % 64);
        }
        Self(bits)
    }

    pub(super) fn admits(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|bits| bits >> (at % 64) & 1 == 1)
    }
}

/// What has been found out.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(HashMap<NodeSelector, Arc<Eligible>>);

impl Known {
    pub(super) fn get(&self, selector: &NodeSelector) -> Option<Arc<Eligible>> {
        self.0.get(selector).cloned()
    }

    /// Finds out about a selector, unless it is known or has no wishes.
    pub(super) fn learn(&mut self, selector: &NodeSelector, nodes: &[NodeSnapshot]) {
        if selector.is_empty() || self.0.contains_key(selector) {
            return;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(selector.clone(), Arc::new(Eligible::of(selector, nodes)));
    }
}
