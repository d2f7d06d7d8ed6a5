//! What has worked since the machine was booted, for a restart of the agent that must not forget it: a link or a port that
//! never was up is nothing, and one that was is missed.

use crate::domain::gpu::health::LinkEnd;
use crate::domain::ids::GpuUuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bounded as the checks' own memory is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Worked {
    /// By GPU and number, with where they lead as far as that was said.
    pub links: BTreeMap<GpuUuid, BTreeMap<u32, Option<LinkEnd>>>,
    /// Ports of InfiniBand by name, as `mlx5_0:1`, with the highest rate that they had, in megabits a second.
    pub ports: BTreeMap<String, Option<u64>>,
}
