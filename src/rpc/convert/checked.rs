//! Checks of a node.

use super::{MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, each, filled, task_id, text, wrong};
use crate::domain::checked::{CheckOutcome, CheckedGpu, CheckedNode, CheckedThing};
use crate::domain::command::Violation;
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::time::Timestamp;
use crate::rpc::generated as pb;

fn outcome(word: &str) -> Parsed<CheckOutcome> {
    CheckOutcome::parse(word).ok_or_else(|| wrong("outcome", "is not known", word, "ok, noted, failed"))
}

impl From<CheckedThing> for pb::CheckedThing {
    fn from(CheckedThing { what, found, allowed, outcome }: CheckedThing) -> Self {
        Self { what, found, allowed, outcome: outcome.as_str().to_owned() }
    }
}

impl TryFrom<pb::CheckedThing> for CheckedThing {
    type Error = Violation;

    fn try_from(wire: pb::CheckedThing) -> Parsed<Self> {
        Ok(Self {
            what: text(wire.what, "what", MAX_LINE_BYTES)?,
            found: text(wire.found, "found", MAX_SENTENCE_BYTES)?,
            allowed: text(wire.allowed, "allowed", MAX_LINE_BYTES)?,
            outcome: outcome(&wire.outcome)?,
        })
    }
}

fn things(of: Vec<CheckedThing>) -> Vec<pb::CheckedThing> {
    of.into_iter().map(Into::into).collect()
}

impl From<CheckedGpu> for pb::CheckedGpu {
    fn from(CheckedGpu { uuid, index, model, task, checks }: CheckedGpu) -> Self {
        Self { uuid: uuid.0, index, model, task: task.map(|task| task.to_string()), checks: things(checks) }
    }
}

impl TryFrom<pb::CheckedGpu> for CheckedGpu {
    type Error = Violation;

    fn try_from(wire: pb::CheckedGpu) -> Parsed<Self> {
        Ok(Self {
            uuid: GpuUuid(filled(wire.uuid, "uuid", MAX_WORD_BYTES)?),
            index: wire.index,
            model: text(wire.model, "model", MAX_LINE_BYTES)?,
            task: wire.task.map(|task| task_id(&task, "task")).transpose()?,
            checks: each(wire.checks, "checks")?,
        })
    }
}

impl From<CheckedNode> for pb::CheckHealthReply {
    fn from(CheckedNode { node, time, outcome, host, gpus }: CheckedNode) -> Self {
        let gpus = gpus.into_iter().map(Into::into).collect();
        Self { node: node.0, time: time.0, outcome: outcome.as_str().to_owned(), host: things(host), gpus }
    }
}

impl TryFrom<pb::CheckHealthReply> for CheckedNode {
    type Error = Violation;

    fn try_from(wire: pb::CheckHealthReply) -> Parsed<Self> {
        Ok(Self {
            node: NodeName(filled(wire.node, "node", MAX_WORD_BYTES)?),
            time: Timestamp(wire.time),
            outcome: outcome(&wire.outcome)?,
            host: each(wire.host, "host")?,
            gpus: each(wire.gpus, "gpus")?,
        })
    }
}
