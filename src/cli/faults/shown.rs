//! `wharf fault show`: one fault on one screen: what, where, since when, whose doing, what to do, whom it hit, and what
//! became of them.

use super::text::{place, what};
use crate::cli::context::Context;
use crate::cli::exit_code::OK;
use crate::cli::fail::Failure;
use crate::cli::jobs::how;
use crate::cli::table::{ago, paragraph, short, span};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::exit::Exit;
use crate::domain::fault::{Fault, FaultId, FaultState};
use crate::domain::view::{GpuView, JobView};
use crate::health::clearing::{Rule, rule};
use serde::Serialize;

/// A fault, and what is known around it; null where that is not known, or not the caller's to know.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    fault: Fault,
    gpu_index: Option<u32>,
    gpu_model: Option<String>,
    hit: Option<Hit>,
}

/// The task that had the part, and what became of it.
#[derive(Debug, Serialize)]
struct Hit {
    job_name: String,
    user: String,
    role: Option<String>,
    index: Option<u32>,
    task_state: Option<String>,
    exit: Option<Exit>,
    job_state: String,
    /// The newest run.
    run_id: u64,
    attempt: Option<u32>,
}

pub async fn show(context: &Context, id: u64, node: Option<String>) -> Result<u8, Failure> {
    let controller = context.controller()?;
    let faults = controller.list_faults(&context.who, node.as_deref(), true).await?;
    let fault = one(faults, FaultId(id))?;
    let gpus = controller.list_gpus(&context.who, fault.node.as_ref().map(|node| node.0.as_str())).await;
    let uuid = fault.subject.gpu.as_ref().map(|gpu| gpu.0.as_str());
    let gpu = gpus.ok().and_then(|gpus| gpus.into_iter().find(|gpu| uuid == Some(gpu.uuid.as_str())));
    let hit = match fault.task {
        // A job that is forgotten, or another's.
        Some(task) => {
            let run = i64::try_from(task.run.0).ok();
            let job = controller.get_job(&context.who, &task.job.0.to_string(), run).await;
            job.ok().map(|job| hit(job, &task.to_string()))
        }
        None => None,
    };
    let (gpu_index, gpu_model) = gpu.map(|GpuView { index, model, .. }| (index, model)).unzip();
    let shown = Shown { fault, gpu_index, gpu_model, hit };
    if context.json {
        context.print_json(&shown)?;
    } else {
        context.print(&text(&shown))?;
    }
    Ok(OK)
}

fn one(faults: Vec<Fault>, id: FaultId) -> Result<Fault, Failure> {
    let mut found: Vec<Fault> = faults.into_iter().filter(|fault| fault.id == id).collect();
    let nodes: Vec<String> = found.iter().filter_map(|fault| Some(fault.node.as_ref()?.0.clone())).collect();
    match (found.pop(), found.is_empty()) {
        (Some(fault), true) => Ok(fault),
        (Some(_), false) => {
            let message = format!("fault {id}: nodes {} have one of that id; --node says which", nodes.join(", "));
            Err(Error::new(ErrorKind::Invalid, message).into())
        }
        (None, _) => {
            let message = format!("fault {id}: not known; 'wharf faults --all' shows those that are");
            Err(Error::not_found(message).into())
        }
    }
}

fn hit(job: JobView, id: &str) -> Hit {
    let task = job.tasks.unwrap_or_default().into_iter().find(|task| task.id == id);
    let attempt = job.runs.iter().find(|run| run.run_id == job.run_id).map(|run| run.attempt);
    let (role, index, task_state, exit) = match task {
        Some(task) => (Some(task.role), Some(task.index), Some(task.state), task.exit),
        None => (None, None, None, None),
    };
    let (job_state, run_id) = (job.state, job.run_id);
    Hit { job_name: job.name, user: job.user, role, index, task_state, exit, job_state, run_id, attempt }
}

fn text(shown: &Shown) -> String {
    let fault = &shown.fault;
    let mut lines = vec![
        ("Fault", seen(fault)),
        ("What", format!("{}: {}", what(fault), fault.reason)),
        ("Where", site(shown)),
        ("Verdict", format!("{}{}", fault.verdict, if fault.by_driver { ", by the driver's own word" } else { "" })),
        ("Action", action(fault)),
    ];
    if let Some(process) = process(fault) {
        lines.push(("Process", process));
    }
    lines.push(("Hit", whom(shown)));
    if let Some(hit) = &shown.hit {
        lines.push(("Became", outcome(hit)));
    }
    if fault.state == FaultState::Active {
        lines.push(("Ends by", ends_by(fault)));
    }
    let mut text: String = lines.iter().map(|(head, line)| paragraph(&format!("{head:<9}"), line)).collect();
    for (at, line) in fault.evidence.iter().enumerate() {
        text.push_str(&paragraph(if at == 0 { "Evidence " } else { "         " }, line));
    }
    text
}

fn seen(fault: &Fault) -> String {
    let since = match fault.first_seen {
        Some(first) => format!("since {} ({} ago)", first.to_rfc3339(), ago(first)),
        None => "since a time that is not known".to_owned(),
    };
    let last = fault.last_seen.filter(|last| Some(*last) != fault.first_seen);
    let last = last.map_or_else(String::new, |last| format!(", last {} ago", ago(last)));
    let related =
        if fault.related > 0 { format!(", and {} that follow from it", fault.related) } else { String::new() };
    let times = if fault.count == 1 { "once".to_owned() } else { format!("{} times", fault.count) };
    format!("{}, {} {since}, seen {times}{last}{related}", fault.id, fault.state)
}

fn site(shown: &Shown) -> String {
    let Shown { fault, gpu_index, gpu_model, .. } = shown;
    let node = fault.node.as_ref().map(|node| format!("node {node}"));
    let gpu = gpu_index.map(|index| format!("GPU {index}"));
    let model = gpu_model.as_ref().map(|model| short(model, 40));
    let uuid = fault.subject.gpu.as_ref().map(ToString::to_string);
    let parts: Vec<String> = [node, gpu, model, Some(place(fault)), uuid].into_iter().flatten().collect();
    parts.join(", ")
}

fn action(fault: &Fault) -> String {
    let meanwhile = match fault.takes_out_of_use() {
        _ if fault.state == FaultState::Cleared => "it is over",
        true => "until it is over nothing new is placed there",
        false => "nothing is taken out of use for it",
    };
    format!("{}; {meanwhile}", fault.action)
}

fn process(fault: &Fault) -> Option<String> {
    let name = fault.process.clone().unwrap_or_default();
    fault.pid.map(|pid| format!("{pid} {name}").trim_end().to_owned())
}

fn whom(shown: &Shown) -> String {
    match (&shown.fault.task, &shown.hit) {
        (Some(task), Some(hit)) => {
            let (user, name) = (short(&hit.user, 20), short(&hit.job_name, 40));
            let role = hit.role.as_ref().zip(hit.index);
            let role = role.map_or_else(String::new, |(role, index)| format!(" {}[{index}]", short(role, 30)));
            format!("task {task},{role} of job {} ({user}/{name})", task.job.0)
        }
        (Some(task), None) => format!("task {task}, of a job that is not known any more or not yours"),
        (None, _) => "no task".to_owned(),
    }
}

fn outcome(hit: &Hit) -> String {
    let task = hit.task_state.as_deref().unwrap_or("not known");
    let end = hit.exit.as_ref().map(|exit| format!(" ({}, class {})", how(exit), exit.class));
    let attempt =
        hit.attempt.map_or_else(String::new, |attempt| format!(" in run {} (attempt {attempt})", hit.run_id));
    format!("the task is {task}{}; the job is {}{attempt}", end.unwrap_or_default(), hit.job_state)
}

/// What may end it, from the least.
fn ends_by(fault: &Fault) -> String {
    let Rule { reset, reboot, replaced, clean } = rule(fault.kind, fault.action);
    let clean = clean.map(|time| match time.is_zero() {
        true => "a look that finds it in order".to_owned(),
        false => format!("{} without it", span(time)),
    });
    let ways = [
        clean,
        reset.then(|| "a reset of the GPU".to_owned()),
        reboot.then(|| "a boot of the machine".to_owned()),
        replaced.then(|| "another GPU in its place".to_owned()),
        Some(format!("'wharf fault clear {}'", fault.id)),
    ];
    ways.into_iter().flatten().collect::<Vec<_>>().join(", or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::exit::ExitClass;
    use crate::domain::fault::{Action, FaultKind, Subject, Verdict};
    use crate::domain::time::Timestamp;

    fn shown() -> Shown {
        let fault = Fault {
            id: FaultId(7_116_360_001),
            kind: FaultKind::Xid,
            code: Some(79),
            node: Some("gpu-01".into()),
            subject: Subject { gpu: Some("GPU-d470".into()), ..Subject::gpu_at("0000:9b:00".parse().unwrap()) },
            pid: Some(1234),
            process: Some("python".to_owned()),
            verdict: Verdict::Gpu,
            action: Action::Reboot,
            by_driver: false,
            reason: "The GPU does not answer on the PCI bus any more.".to_owned(),
            count: 3,
            related: 1,
            first_seen: Some(Timestamp(0)),
            last_seen: Some(Timestamp(0).plus(std::time::Duration::from_secs(5))),
            first_seen_boot_us: None,
            last_seen_boot_us: None,
            state: FaultState::Active,
            evidence: vec![
                "NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.".to_owned(),
                "x ".repeat(150),
            ],
            task: Some("12.13.0.1".parse().unwrap()),
            job: None,
        };
        let hit = Hit {
            job_name: "train".to_owned(),
            user: "ann".to_owned(),
            role: Some("worker".to_owned()),
            index: Some(1),
            task_state: Some("FAILED".to_owned()),
            exit: Some(Exit::without_status(ExitClass::Hardware, "fault")),
            job_state: "RUNNING".to_owned(),
            run_id: 15,
            attempt: Some(2),
        };
        Shown { fault, gpu_index: Some(3), gpu_model: Some("NVIDIA H100".to_owned()), hit: Some(hit) }
    }

    #[test]
    fn one_screen_says_what_where_whom_and_what_became() {
        let text = text(&shown());
        for part in [
            "7116360001, ACTIVE since 1970-01-01",
            "seen 3 times",
            "and 1 that follow",
            "Xid 79: The GPU does not answer",
            "node gpu-01, GPU 3, NVIDIA H100, 0000:9b:00, GPU-d470",
            "reboot; until it is over nothing new",
            "1234 python",
            "task 12.13.0.1, worker[1] of job 12 (ann/train)",
            "the task is FAILED (-, class hardware); the job is RUNNING in run 15 (attempt 2)",
            "a boot of the machine, or another GPU in its place, or 'wharf fault clear 7116360001'",
            "Evidence NVRM: Xid",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100) && text.lines().count() < 24, "{text}");
    }

    #[test]
    fn what_is_not_known_is_said_and_an_id_of_two_nodes_is_asked_for() {
        let Shown { fault, .. } = shown();
        let bare = Fault { task: None, pid: None, first_seen: None, state: FaultState::Cleared, ..fault.clone() };
        let text = text(&Shown { fault: bare, gpu_index: None, gpu_model: None, hit: None });
        assert!(text.contains("no task") && text.contains("reboot; it is over"), "{text}");
        assert!(!text.contains("Ends by") && !text.contains("Became") && !text.contains("Process"), "{text}");
        let (twice, id) = (vec![fault.clone(), fault.clone()], fault.id);
        assert!(one(twice, id).is_err() && one(Vec::new(), id).is_err());
        assert_eq!(one(vec![fault], id).ok().map(|fault| fault.id), Some(id));
    }
}
