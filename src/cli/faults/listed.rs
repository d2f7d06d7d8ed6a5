//! `wharf faults` and `wharf fault clear`: what nodes have told the controller.

use super::text::{place, what, when};
use crate::cli::context::Context;
use crate::cli::exit_code::OK;
use crate::cli::fail::Failure;
use crate::cli::table;
use crate::domain::fault::{Fault, FaultId, FaultState};

pub async fn list(context: &Context, node: Option<String>, all: bool) -> Result<u8, Failure> {
    let faults = context.controller()?.list_faults(&context.who, node.as_deref(), all).await?;
    if context.json {
        context.print_json(&faults)?;
    } else if faults.is_empty() {
        context.remark(if all { "no fault is known" } else { "no fault is active; --all shows those that are over" });
    } else {
        context.print(&table::paint(faults_table(&faults), context.color))?;
    }
    Ok(OK)
}

pub async fn clear(context: &Context, id: u64, node: Option<String>) -> Result<u8, Failure> {
    let fault = context.controller()?.clear_fault(&context.who, FaultId(id), node.as_deref()).await?;
    if context.json {
        context.print_json(&fault)?;
    } else {
        let of = fault.node.as_ref().map_or_else(String::new, |node| format!(" of node {node}"));
        context.print(&format!("fault {id}{of} is {}\n", fault.state))?;
    }
    Ok(OK)
}

/// One line for each; below it, in full, what those mean that need somebody.
fn faults_table(faults: &[Fault]) -> String {
    let mut rows = table::table(["ID", "NODE", "SINCE", "WHERE", "WHAT", "COUNT", "ACTION", "TASK"]);
    table::right(&mut rows, &[0, 5]);
    for fault in faults {
        let action = match fault.state {
            FaultState::Active => fault.action.as_str(),
            FaultState::Cleared => "cleared",
        };
        let place = place(fault);
        table::row(
            &mut rows,
            [
                fault.id.to_string(),
                fault.node.as_ref().map_or_else(|| "-".to_owned(), |node| table::short(&node.0, 12)),
                when(fault),
                // Nearly all machines have but one PCI domain.
                table::short(place.strip_prefix("0000:").unwrap_or(&place), 14),
                table::short(&what(fault), 14),
                fault.count.to_string(),
                action.to_owned(),
                fault.task.map_or_else(|| "-".to_owned(), |task| table::short(&task.to_string(), 14)),
            ],
        );
    }
    let mut text = table::text(&rows);
    for fault in faults.iter().filter(|fault| fault.takes_out_of_use()) {
        text.push_str(&table::paragraph(&format!("{}: ", fault.id), &fault.reason));
    }
    if let Some(first) = faults.first() {
        text.push_str(&format!("\nNext: wharf fault show {}\n", first.id));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::{Action, FaultKind, Subject, Verdict};
    use crate::domain::time::Timestamp;

    #[test]
    fn the_longest_lines_fit_and_what_needs_somebody_is_told_in_full() {
        let fault = Fault {
            id: FaultId(9_999_990_001),
            kind: FaultKind::Xid,
            code: Some(79),
            node: Some("a-node-with-a-long-name".into()),
            subject: Subject { link: Some(12), ..Subject::gpu_at("0000:9b:00".parse().unwrap()) },
            pid: None,
            process: None,
            verdict: Verdict::Gpu,
            action: Action::ResetGpu,
            by_driver: false,
            reason: "It does not answer.".to_owned(),
            count: 800_000,
            related: 0,
            first_seen: Some(Timestamp(0)),
            last_seen: Some(Timestamp(0)),
            first_seen_boot_us: None,
            last_seen_boot_us: None,
            state: FaultState::Active,
            evidence: Vec::new(),
            task: Some("123456.123456.10.1000".parse().unwrap()),
            job: None,
        };
        let text = faults_table(std::slice::from_ref(&fault));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("9999990001") && text.contains("Xid 79") && text.contains("does not answer"), "{text}");
        let cleared = faults_table(&[Fault { state: FaultState::Cleared, ..fault }]);
        assert!(cleared.contains("cleared") && !cleared.contains("does not answer"), "{cleared}");
    }
}
