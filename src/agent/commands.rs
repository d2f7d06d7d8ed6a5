//! Commands of the controller: who may speak, what is refused, who waits for what.

use super::actor::Actor;
use super::entry::{Entry, MAX_WAITERS, Waiter, Wants};
use super::journal;
use super::message::{Action, Reply, Request};
use super::ports::{HeldPorts, busy_among};
use crate::domain::command::{CommandHeader, Error, ErrorKind, Violation};
use crate::domain::container::Network;
use crate::domain::ids::Generation;
use crate::domain::lifecycle::{Effect, TaskEvent, TaskRecord, step};
use crate::domain::principal::Role;
use crate::domain::task::{TaskSpec, TaskStatus};
use crate::runtime::Launch;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two registrations that commands of a newer term ask for.
const REGISTER_PAUSE: Duration = Duration::from_secs(2);

/// Ports that are looked at after a conflict. Two sockets each, which take some microseconds.
const LOOK_AROUND: usize = 512;
/// The runtime that publishes ports.
const DOCKER: &str = "docker";

type Answer = Reply<Result<TaskStatus, Error>>;

impl Actor {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Command { header, action, reply } => self.command(&header, *action, reply),
            Request::List { after, limit, reply } => drop(reply.send(self.list(after, limit))),
            Request::Node { reply } => drop(reply.send(self.node_info())),
            Request::Metrics { reply } => drop(reply.send(self.metrics())),
            Request::Watch { cursor, reply } => drop(reply.send(self.watchers.watch(cursor.as_deref()))),
            Request::CheckHealth { who, gpus, deep, reply } => self.check_health(&who, &gpus, deep, reply),
            Request::ClearFault { who, id, reply } => drop(reply.send(self.clear_fault(&who, id))),
            Request::Task { id, reply } => drop(reply.send(self.access(id))),
        }
    }

    fn command(&mut self, header: &CommandHeader, action: Action, reply: Answer) {
        let what = format!("{} task {}", action.verb(), action.id());
        match self.admit(header, &action, &what) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(()) => self.obey(header.generation, action, reply),
        }
    }

    /// Everything that does not depend on the task's state.
    fn admit(&mut self, header: &CommandHeader, action: &Action, what: &str) -> Result<(), Error> {
        self.check_header(header, what)?;
        if let Action::Stage(spec) | Action::Prepare(spec) = action {
            check_size(spec, what)?;
        }
        if matches!(action, Action::Stage(_) | Action::Prepare(_) | Action::Launch { .. })
            && let Some(refusal) = self.writer.refusal(what)
        {
            return Err(refusal);
        }
        if let Some(why) = self.unread.get(&action.id()) {
            let message =
                format!("{what}: it may be here, but its records cannot be read ({why}); it is left as it is");
            return Err(Error { retry_after_ms: Some(5000), ..Error::unavailable(message) });
        }
        let Some(entry) = self.entries.get_mut(&action.id()) else { return Ok(()) };
        if entry.is_adopting() {
            let message = format!("{what}: the agent was restarted and is still looking at what is left of it");
            return Err(Error { retry_after_ms: Some(500), ..Error::unavailable(message) });
        }
        entry.waiters.retain(|waiter| !waiter.reply.is_closed());
        if entry.waiters.len() >= MAX_WAITERS {
            let message = format!("{what}: {MAX_WAITERS} callers wait for it already");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(())
    }

    fn check_header(&mut self, header: &CommandHeader, what: &str) -> Result<(), Error> {
        if !header.principal.roles.contains(&Role::Controller) {
            let message = format!("{what}: only a controller may, and {} is none", header.principal.user);
            return Err(Error::new(ErrorKind::NotAllowed, message));
        }
        // Not refused for good: the task that it is about is as it was, whoever may speak of it.
        let level = header.level.check_peer(format_args!("{what}: the controller"));
        level.map_err(|error| Error { kind: ErrorKind::Unavailable, retry_after_ms: Some(5000), ..error })?;
        // Before the first registration there is nothing to compare with: the listener decides who may speak.
        if let Some(ours) = self.cluster_id.as_ref().filter(|ours| **ours != header.cluster_id) {
            let message = format!(
                "{what}: the command is of cluster '{}', node {} belongs to cluster '{ours}'",
                header.cluster_id, self.facts.name
            );
            return Err(Error::new(ErrorKind::Stale, message));
        }
        if header.term < self.term {
            let message = format!("{what}: term {} is outdated, {} was seen here", header.term, self.term);
            return Err(Error::new(ErrorKind::Stale, message));
        }
        if header.term > self.term && !self.standalone {
            // Whoever reaches this node can write any number: only the controller that it registers with may raise
            // it, or one command would lock all later leaders out.
            self.register_anew();
            let message = format!(
                "{what}: term {} is newer than {}, which node {} registered with; it registers anew",
                header.term, self.term, self.facts.name
            );
            return Err(Error { retry_after_ms: Some(500), ..Error::unavailable(message) });
        }
        if header.term > self.term {
            self.term = header.term;
            // In the transaction of the command's own record, or an earlier one.
            self.writer.set_meta(journal::TERM, header.term.to_string());
        }
        Ok(())
    }

    /// Not with every such command: they may be anybody's, and everything is reported again each time.
    fn register_anew(&mut self) {
        let now = tokio::time::Instant::now();
        if self.register_again_at.is_none_or(|at| at <= now) {
            self.register_again_at = Some(now + REGISTER_PAUSE);
            self.hint.send_modify(|hint| hint.register += 1);
        }
    }

    fn obey(&mut self, generation: Generation, action: Action, reply: Answer) {
        let id = action.id();
        let (event, wants, launch) = into_event(generation, action);
        let known = self.entries.get(&id);
        let record = known.map_or_else(|| TaskRecord::unknown(id), |entry| entry.record.clone());
        let stepped = step(&record, event, self.clock.now()).map_err(Error::from);
        let held = stepped.and_then(|(next, effects)| {
            let ports = if effects.contains(&Effect::Hold) { Some(self.hold(&next)?) } else { None };
            Ok((next, effects, ports))
        });
        let (next, effects, ports) = match held {
            Ok(held) => held,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let entry = self.entries.entry(id).or_insert_with(|| Entry::new(TaskRecord::unknown(id)));
        if let Some(ports) = ports {
            entry.ports = ports;
        }
        entry.waiters.push(Waiter { wants, generation, reply });
        self.apply(id, next, effects, launch);
        // A stop is not held up by a journal that fails: it is under way, and asking again does no harm.
        let spoken = wants == Wants::StopKnown && self.writer.is_failing();
        if let Some(entry) = self.entries.get_mut(&id) {
            let durable = entry.is_durable() || spoken;
            entry.answer_waiters(durable);
        }
    }

    /// Takes the claim and binds the ports, or says what is not free here. Nothing is held on error.
    fn hold(&mut self, record: &TaskRecord) -> Result<HeldPorts, Error> {
        let Some(claim) = record.claim() else { return Ok(HeldPorts::default()) };
        let ports = claim.ports.clone();
        self.ledger.hold(record.id, record.generation, claim)?;
        let held = self.ports.hold(ports).map_err(|taken| {
            self.ledger.release(record.id);
            let message = format!("prepare: task {}: {taken}", record.id);
            let busy_ports = self.busy_around(taken.ports);
            Error { busy_ports, ..Error::new(ErrorKind::Exhausted, message) }
        })?;
        // dockerd binds what it publishes before the container is at its barrier, and keeps it from then on.
        Ok(if self.publishes_ports(record) { HeldPorts::default() } else { held })
    }

    /// These ports, and which of those behind them in the node's range are somebody else's too: with the few of one task
    /// at a time, a gang would never find its way past somebody who has hundreds.
    fn busy_around(&self, mut taken: Vec<u16>) -> Vec<u16> {
        let (first, last) = self.inventory.ports;
        let Some(start) = taken.iter().copied().find(|port| (first..=last).contains(port)) else { return taken };
        let ours: BTreeSet<u16> = self.ledger.held().flat_map(|(_, held)| held.claim.ports.iter().copied()).collect();
        let behind = (start..=last).chain(first..start).take(LOOK_AROUND);
        let more = busy_among(behind.filter(|port| !ours.contains(port) && !taken.contains(port)));
        taken.extend(more);
        taken
    }

    /// The task's ports are dockerd's to bind, not its own.
    pub(super) fn publishes_ports(&self, record: &TaskRecord) -> bool {
        let bridged = record.spec.as_ref().is_some_and(|spec| spec.container.network == Network::Bridge);
        bridged && self.inventory.runtime == DOCKER
    }
}

fn into_event(generation: Generation, action: Action) -> (TaskEvent, Wants, Option<Launch>) {
    match action {
        Action::Stage(spec) => (TaskEvent::StageAsked { generation, spec }, Wants::Staged, None),
        Action::Prepare(spec) => (TaskEvent::PrepareAsked { generation, spec }, Wants::Ready, None),
        Action::Launch { env, secrets, .. } => {
            (TaskEvent::LaunchAsked { generation }, Wants::Launched, Some(Launch { env, secrets }))
        }
        Action::Stop { grace_ms, .. } => (TaskEvent::StopAsked { generation, grace_ms }, Wants::StopKnown, None),
        Action::Release { .. } => (TaskEvent::ReleaseAsked { generation }, Wants::Released, None),
    }
}

/// A record must fit one value of the journal, as JSON, which writes some characters in six bytes. No kernel runs a
/// longer command anyway.
fn check_size(spec: &TaskSpec, what: &str) -> Result<(), Error> {
    let bytes = serde_json::to_vec(spec).map_or(usize::MAX, |json| json.len());
    if bytes <= journal::MAX_RECORD_BYTES {
        return Ok(());
    }
    let mut error = Error::new(ErrorKind::Invalid, format!("{what}: the specification is too long"));
    error.violations.push(Violation {
        field: "task.command".to_owned(),
        message: "the task's specification is too long to be journalled".to_owned(),
        found: format!("{bytes} bytes as JSON, with a command of {} bytes", spec.command.len()),
        allowed: format!("{} bytes as JSON in all", journal::MAX_RECORD_BYTES),
    });
    Err(error)
}
