//! The header of commands.

use super::{MAX_WORD_BYTES, Parsed, inner, text, wrong};
use crate::domain::command::{CommandHeader, Violation};
use crate::domain::ids::{Generation, Term};
use crate::domain::level::Level;
use crate::rpc::generated as pb;

impl From<CommandHeader> for pb::CommandHeader {
    fn from(header: CommandHeader) -> Self {
        let CommandHeader { cluster_id, term, generation, request_id, deadline_ms, principal, level } = header;
        Self {
            cluster_id,
            term: term.0,
            generation: generation.0,
            request_id,
            deadline_ms,
            principal: Some(principal.into()),
            level: level.0,
        }
    }
}

impl TryFrom<pb::CommandHeader> for CommandHeader {
    type Error = Violation;

    fn try_from(wire: pb::CommandHeader) -> Parsed<Self> {
        if wire.deadline_ms == 0 {
            return Err(wrong("deadline_ms", "leaves no time for the command", 0, "1 or more milliseconds"));
        }
        Ok(Self {
            cluster_id: text(wire.cluster_id, "cluster_id", MAX_WORD_BYTES)?,
            term: Term(wire.term),
            generation: Generation(wire.generation),
            request_id: text(wire.request_id, "request_id", MAX_WORD_BYTES)?,
            deadline_ms: wire.deadline_ms,
            principal: inner(wire.principal, "principal")?,
            level: Level::of_wire(wire.level),
        })
    }
}
