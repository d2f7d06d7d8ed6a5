//! Hardware faults.

use super::{
    MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, nanos, optional_text, task_id, text, texts, time,
    wrong,
};
use crate::domain::command::Violation;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject, Verdict};
use crate::domain::ids::{GpuUuid, JobId, NodeName};
use crate::rpc::generated as pb;

const PARTS: [(Part, &str); 5] = [
    (Part::Gpu, "gpu"),
    (Part::Link, "link"),
    (Part::Node, "node"),
    (Part::Fabric, "fabric"),
    (Part::Device, "device"),
];

fn part_word(part: Part) -> &'static str {
    PARTS.iter().find(|(known, _)| *known == part).map_or("node", |(_, word)| word)
}

/// A newer version may know more words, which then are what is known least of.
fn part(word: &str) -> Part {
    PARTS.iter().find(|(_, known)| *known == word).map_or(Part::Node, |(part, _)| *part)
}

fn word<T>(found: Option<T>, field: &str, word: &str) -> Parsed<T> {
    found.ok_or_else(|| wrong(field, "is no word that is known", word, "a word of this version"))
}

impl From<Fault> for pb::Fault {
    fn from(fault: Fault) -> Self {
        let Fault {
            id,
            kind,
            code,
            node,
            subject,
            pid,
            process,
            verdict,
            action,
            by_driver,
            reason,
            count,
            related,
            first_seen,
            last_seen,
            first_seen_boot_us,
            last_seen_boot_us,
            state,
            evidence,
            task,
            job,
        } = fault;
        let Subject { part, gpu, pci, gpu_instance, compute_instance, link, device } = subject;
        Self {
            id: id.0,
            kind: kind.as_str().to_owned(),
            code,
            node: node.map(|node| node.0),
            subject: part_word(part).to_owned(),
            gpu: gpu.map(|gpu| gpu.0),
            pci: pci.map(|pci| pci.to_string()),
            gpu_instance,
            compute_instance,
            link,
            device,
            pid,
            process,
            verdict: verdict.as_str().to_owned(),
            action: action.as_str().to_owned(),
            by_driver,
            reason,
            count,
            related,
            first_seen: nanos(first_seen),
            last_seen: nanos(last_seen),
            first_seen_boot_us,
            last_seen_boot_us,
            state: state.as_str().to_owned(),
            evidence,
            task: task.map(|task| task.to_string()),
            job: job.map(|job| job.0),
        }
    }
}

impl TryFrom<pb::Fault> for Fault {
    type Error = Violation;

    fn try_from(wire: pb::Fault) -> Parsed<Self> {
        let pci = wire.pci.map(|pci| pci.parse().map_err(|_| wrong("pci", "is no address", &pci, "0000:1b:00.0")));
        let subject = Subject {
            part: part(&wire.subject),
            gpu: optional_text(wire.gpu, "gpu", MAX_WORD_BYTES)?.map(GpuUuid),
            pci: pci.transpose()?,
            gpu_instance: wire.gpu_instance,
            compute_instance: wire.compute_instance,
            link: wire.link,
            device: optional_text(wire.device, "device", MAX_LINE_BYTES)?,
        };
        Ok(Self {
            id: FaultId(wire.id),
            kind: word(FaultKind::parse(&wire.kind), "kind", &wire.kind)?,
            code: wire.code,
            node: optional_text(wire.node, "node", MAX_WORD_BYTES)?.map(NodeName),
            subject,
            pid: wire.pid,
            process: optional_text(wire.process, "process", MAX_LINE_BYTES)?,
            verdict: word(Verdict::parse(&wire.verdict), "verdict", &wire.verdict)?,
            action: word(Action::parse(&wire.action), "action", &wire.action)?,
            by_driver: wire.by_driver,
            reason: text(wire.reason, "reason", MAX_SENTENCE_BYTES)?,
            count: wire.count,
            related: wire.related,
            first_seen: time(wire.first_seen),
            last_seen: time(wire.last_seen),
            first_seen_boot_us: wire.first_seen_boot_us,
            last_seen_boot_us: wire.last_seen_boot_us,
            state: word(FaultState::parse(&wire.state), "state", &wire.state)?,
            evidence: texts(wire.evidence, "evidence", MAX_LINE_BYTES)?,
            task: wire.task.map(|task| task_id(&task, "task")).transpose()?,
            job: wire.job.map(JobId),
        })
    }
}

/// To the wire.
pub(in crate::rpc) fn list(faults: Vec<Fault>) -> pb::FaultList {
    pb::FaultList { faults: faults.into_iter().map(Into::into).collect() }
}

/// From the wire. A fault of a kind that only a newer version knows is left out: the others must be told all the same.
pub(in crate::rpc) fn parsed(list: pb::FaultList) -> Vec<Fault> {
    list.faults.into_iter().filter_map(|fault| Fault::try_from(fault).ok()).collect()
}
