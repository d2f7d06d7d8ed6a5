//! One job and its tasks.

use super::words;
use super::{Asked, Body, JobName, OwnedJob, Refusal, reply};
use crate::api::records::JobRecord;
use crate::domain::spec::RoleSpec;
use crate::domain::view::{RunView, TaskView};
use crate::web::target::encode;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

pub(super) async fn answer(asked: &Asked, name: JobName) -> Result<Response<Body>, Refusal> {
    let who = asked.reader().await?;
    let job = asked.owned(name).await?;
    let record = asked.api.get_record(&who, &job.reference()).await;
    let record = record.map_err(|error| reply::refused(&error, &job.shown))?;
    Ok(reply::json(StatusCode::OK, &detail(&record, &job, &asked.base)))
}

fn detail(record: &JobRecord, job: &OwnedJob, base: &str) -> Value {
    let tasks = record.view.tasks.as_deref().unwrap_or_default();
    let url = format!("{base}/api/v1/user/{}/jobs/{}", encode(&job.user), encode(&job.name));
    let mut roles = Map::new();
    for role in &record.spec.roles {
        let statuses: Vec<Value> = tasks
            .iter()
            .filter(|task| task.role == role.name)
            .map(|task| status(task, role, &record.gpu_indexes, &url))
            .collect();
        let entry = json!({ "taskRoleStatus": { "name": role.name }, "taskStatuses": statuses });
        roles.insert(role.name.clone(), entry);
    }
    json!({ "name": job.shown, "jobStatus": job_status(record, tasks, &url), "taskRoles": roles })
}

fn job_status(record: &JobRecord, tasks: &[TaskView], url: &str) -> Value {
    let job = &record.job;
    let (retries, retry_details) = words::retries(record);
    let run = record.view.runs.last();
    let code = words::job_exit_code(record);
    let reason = job.exit.as_ref().map(|exit| exit.reason.as_str());
    let trigger = trigger(record, tasks);
    json!({
        // The launcher's name of a job holds its user.
        "name": format!("{}~{}", job.user, job.name),
        "username": job.user,
        "state": words::state(record),
        "subState": words::sub_state(record),
        "executionType": words::execution_type(record),
        "retries": retries,
        "retryDetails": retry_details,
        "createdTime": words::millis(job.submitted_at),
        "completedTime": job.ended_at.map(words::millis),
        "appId": run.map(|run| format!("application_{}_{}", job.id, run.run_id)),
        "appProgress": progress(tasks),
        "appTrackingUrl": url,
        "appLaunchedTime": run.and_then(|run: &RunView| run.started_at).map(words::millis),
        "appCompletedTime": run.and_then(|run| run.ended_at).map(words::millis),
        "appExitCode": code,
        "appExitSpec": words::exit_spec(code, job.exit.as_ref()),
        "appExitDiagnostics": reason,
        "appExitMessages": { "container": null, "runtime": null, "launcher": reason },
        "appExitTriggerMessage": trigger.and_then(|task| task.exit.as_ref()).map(|exit| exit.reason.as_str()),
        "appExitTriggerTaskRoleName": trigger.map(|task| task.role.as_str()),
        "appExitTriggerTaskIndex": trigger.map(|task| task.index),
        "appExitType": job.exit.as_ref().map(words::exit_type),
        "virtualCluster": record.spec.virtual_cluster,
    })
}

/// The task whose failure failed the job: the first of those that failed.
fn trigger<'a>(record: &JobRecord, tasks: &'a [TaskView]) -> Option<&'a TaskView> {
    let failed = record.job.state == crate::domain::job::JobState::Failed;
    let of_tasks = tasks.iter().filter(|task| failed && task.state == "FAILED" && task.ended_at.is_some());
    of_tasks.min_by_key(|task| task.ended_at)
}

/// How much of it has ended, from 0 to 1, both as JavaScript writes them.
fn progress(tasks: &[TaskView]) -> Value {
    let ended = tasks.iter().filter(|task| !matches!(words::task_state(task), "WAITING" | "RUNNING")).count();
    match ended {
        0 => json!(0),
        all if all == tasks.len() => json!(1),
        some => json!(some as f64 / tasks.len() as f64),
    }
}

fn status(task: &TaskView, role: &RoleSpec, indexes: &HashMap<String, u32>, url: &str) -> Value {
    let placed = task.ip.is_some();
    json!({
        "taskIndex": task.index,
        "taskState": words::task_state(task),
        "containerId": placed.then_some(&task.id),
        "containerIp": task.ip,
        "containerPorts": ports(task, role),
        "containerGpus": if placed { gpus(task, indexes) } else { Value::Null },
        "containerLog": placed.then(|| format!("{url}/logs/{}/{}", encode(&task.role), task.index)),
        "containerExitCode": words::task_exit_code(task),
    })
}

/// `{label: "PORT,PORT"}`, in the order of OpenPAI's launcher.
fn ports(task: &TaskView, role: &RoleSpec) -> Map<String, Value> {
    let mut ports = Map::new();
    for label in role.all_ports().into_iter().map(|port| port.label) {
        if let Some(numbers) = task.ports.get(&label) {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            ports.insert(label, numbers.join(",").into());
        }
    }
    ports
}

/// Bit N for the GPU that the node's driver calls N; slices of a GPU have its bit. Null where a GPU's number is not
/// known any more, or is beyond what a number holds.
fn gpus(task: &TaskView, indexes: &HashMap<String, u32>) -> Value {
    let bit = |uuid: &String| indexes.get(uuid).and_then(|index| 1u64.checked_shl(*index));
    let mask = task.gpus.iter().map(bit).try_fold(0u64, |mask, bit| Some(mask | bit?));
    mask.map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn task(gpus: &[&str]) -> TaskView {
        TaskView {
            id: "1.1.0.0".into(),
            role: "worker".into(),
            index: 0,
            state: "RUNNING".into(),
            node: Some("n".into()),
            ip: Some("127.0.0.1".into()),
            ports: BTreeMap::from([("http".to_owned(), vec![3]), ("a".to_owned(), vec![1, 2])]),
            gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
            started_at: None,
            ended_at: None,
            exit: None,
            notices: Vec::new(),
            progress: None,
            held_until: None,
        }
    }

    #[test]
    fn gpus_are_bits() {
        let indexes: HashMap<String, u32> = [("a", 0), ("b", 1), ("slice", 1), ("c", 31), ("d", 40), ("z", 64)]
            .map(|(k, v)| (k.to_owned(), v))
            .into();
        for (gpus_of, mask) in [
            (&[][..], json!(0)),
            (&["a", "b"], json!(3)),
            (&["b", "slice"], json!(2)),
            (&["c"], json!(2_147_483_648u64)),
            (&["d", "a"], json!(1_099_511_627_777u64)),
            (&["a", "z"], Value::Null),
            (&["a", "gone"], Value::Null),
        ] {
            assert_eq!(gpus(&task(gpus_of), &indexes), mask, "{gpus_of:?}");
        }
    }

    #[test]
    fn ports_are_texts_in_the_launchers_order() {
        let port =
            |label: &str, begin_at, count| crate::domain::spec::PortSpec { label: label.into(), begin_at, count };
        let role = RoleSpec {
            name: "worker".into(),
            count: 1,
            cpus: 1,
            memory_mb: 100,
            shm_mb: 64,
            gpus: 0,
            ports: vec![port("http", 0, 1), port("a", 1, 2)],
            command: "true".into(),
            min_failed: None,
            min_succeeded: None,
        };
        let text = Value::Object(ports(&task(&[]), &role)).to_string();
        assert_eq!(text, r#"{"a":"1,2","http":"3"}"#);
    }
}
