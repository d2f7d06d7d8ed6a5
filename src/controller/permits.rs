//! Permits for nodes that take themselves out because of a fault, as by a reboot: never so many at once that the cluster
//! goes with them. See [`crate::domain::remediation`].
//!
//! Out is a node that is closed for a fault, that is not heard, or that has a permit. A permit lasts until a heartbeat of
//! its node does not ask for it any more, so a node that is booted has it until it is back, and one that never comes back
//! counts for as long as it is not removed.
//!
//! A node that tasks hold, or are on their way to, takes no new ones first and goes once it is empty. While it empties it
//! counts as out for others that would empty too; one that can go at once takes its place.

use super::apply::Context;
use super::faults;
use super::holdings::Holdings;
use super::state::{Node, State, Withdrawn};
use crate::domain::fault::FaultId;
use crate::domain::ids::NodeName;
use crate::domain::remediation::{GoingOut, Permit};

/// What is known when a node asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Situation {
    /// It was let go for this fault before, and has asked ever since.
    had: bool,
    /// Other nodes that are out, ...
    out: usize,
    /// ... or take no new tasks in order to go out.
    emptying: usize,
    /// How many may be.
    most: usize,
    /// Tasks that are there by the books, also those that are on their way.
    tasks: u32,
    /// Not every node has had the time to say what it is at.
    is_early: bool,
}

/// What it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Go,
    /// It is closed until its tasks have ended.
    EmptyFirst,
    TooMany,
    TooEarly,
}

const fn decide(asked: GoingOut, situation: Situation) -> Answer {
    let Situation { had, out, emptying, most, tasks, is_early } = situation;
    match () {
        // Who has begun had a permit of this controller, or of the one before.
        () if asked.begun || had && tasks == 0 => Answer::Go,
        () if is_early => Answer::TooEarly,
        () if tasks > 0 && out + emptying < most => Answer::EmptyFirst,
        () if tasks == 0 && out < most => Answer::Go,
        () => Answer::TooMany,
    }
}

/// What a heartbeat asks for; none of a node that asks for nothing, which gives back what it has.
pub(super) fn answer(
    state: &mut State,
    name: &NodeName,
    asked: Option<GoingOut>,
    context: &Context<'_>,
) -> Option<Permit> {
    let node = state.nodes.get(name)?;
    let had = node.permit;
    let Some(asked) = asked else {
        keep(state, name, None, None);
        if let Some(fault) = had {
            let message = format!("it is back, or did not go: the permit for fault {fault} is free");
            state.note(context.now, "node.back", None, None, Some(name), message);
        }
        return None;
    };
    let fault = asked.fault;
    let situation = situation(state, name, asked, context);
    let (answer, was_known) = (decide(asked, situation), had == Some(fault) || node.empties == Some(fault));
    match answer {
        Answer::Go => keep(state, name, Some(fault), None),
        Answer::EmptyFirst => keep(state, name, None, Some(fault)),
        Answer::TooMany | Answer::TooEarly => keep(state, name, None, None),
    }
    let notes = !was_known && !asked.begun;
    let what = match answer {
        Answer::Go => "it may take itself out",
        Answer::EmptyFirst => "it takes no new tasks, and may take itself out once it is empty",
        Answer::TooMany | Answer::TooEarly => "",
    };
    if notes && !what.is_empty() {
        let message = format!("{what}: for fault {fault}, as its remediation asks");
        state.note(context.now, "node.going_out", None, None, Some(name), message);
    }
    Some(Permit { fault, refusal: refusal(state, answer, situation) })
}

fn situation(state: &State, name: &NodeName, asked: GoingOut, context: &Context<'_>) -> Situation {
    let others = || state.nodes.iter().filter(|(other, _)| *other != name).map(|(_, node)| node);
    Situation {
        had: state.nodes.get(name).is_some_and(|node| node.permit == Some(asked.fault)),
        out: others().filter(|node| is_out(node)).count(),
        emptying: others().filter(|node| !is_out(node) && node.empties.is_some()).count(),
        most: faults::most_out(state),
        tasks: if asked.begun { 0 } else { Holdings::of(state).tasks_on(name) },
        is_early: context.instant.saturating_duration_since(context.started) < context.parts.heartbeat,
    }
}

fn is_out(node: &Node) -> bool {
    node.withdrawn == Withdrawn::Yes || !node.reachable || node.permit.is_some()
}

/// For a person; none where it may go.
fn refusal(state: &State, answer: Answer, situation: Situation) -> Option<String> {
    let Situation { out, emptying, most, tasks, .. } = situation;
    match answer {
        Answer::Go => None,
        Answer::EmptyFirst => {
            Some(format!("{tasks} tasks are there or on their way; it takes no new ones meanwhile"))
        }
        Answer::TooEarly => Some("the controller has just begun, and does not know yet who is out".to_owned()),
        Answer::TooMany => {
            let (all, percent) = (state.nodes.len(), state.max_nodes_out_percent);
            let busy = match emptying {
                0 => String::new(),
                count => format!(", {count} take no new tasks in order to go,"),
            };
            Some(format!(
                "{out} of {all} nodes are out already, for faults or unheard,{busy} and max_nodes_out_percent, \
                 {percent} %, allows {most}"
            ))
        }
    }
}

/// No new tasks go where a reboot may come at any moment, or is to come.
pub(super) const fn closes(node: &Node) -> bool {
    node.permit.is_some() || node.empties.is_some()
}

/// Why that is so, for a person.
pub(super) fn why(node: &Node) -> Option<String> {
    let goes = node.permit.map(|fault| format!("it remedies fault {fault}, which may take it out"));
    goes.or_else(|| node.empties.map(|fault| format!("it is to be empty, so that it can remedy fault {fault}")))
}

fn keep(state: &mut State, name: &NodeName, permit: Option<FaultId>, empties: Option<FaultId>) {
    let Some(node) = state.nodes.get_mut(name) else { return };
    let before = (std::mem::replace(&mut node.permit, permit), std::mem::replace(&mut node.empties, empties));
    if before != (permit, empties) {
        super::schedule::nodes_changed(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_empty_goes_and_who_is_not_is_closed_first() {
        let none = Situation { most: 2, ..Situation::default() };
        let busy = Situation { tasks: 3, ..none };
        for (situation, expected) in [
            (none, Answer::Go),
            (Situation { out: 1, ..none }, Answer::Go),
            (Situation { out: 2, ..none }, Answer::TooMany),
            // Who can go at once takes the place of who cannot.
            (Situation { out: 1, emptying: 1, ..none }, Answer::Go),
            (busy, Answer::EmptyFirst),
            (Situation { out: 1, ..busy }, Answer::EmptyFirst),
            (Situation { out: 1, emptying: 1, ..busy }, Answer::TooMany),
            (Situation { emptying: 2, ..busy }, Answer::TooMany),
            // A run that was placed meanwhile comes before a permit that was not used.
            (Situation { had: true, ..busy }, Answer::EmptyFirst),
            (Situation { had: true, out: 2, ..none }, Answer::Go),
            (Situation { is_early: true, ..none }, Answer::TooEarly),
            (Situation { is_early: true, ..busy }, Answer::TooEarly),
            (Situation { is_early: true, had: true, ..none }, Answer::Go),
        ] {
            let asked = GoingOut { fault: FaultId(1), begun: false };
            assert_eq!(decide(asked, situation), expected, "{situation:?}");
            assert_eq!(decide(GoingOut { begun: true, ..asked }, situation), Answer::Go, "{situation:?}");
        }
    }
}
