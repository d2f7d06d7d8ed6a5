//! How to get into a job's tasks.
//!
//! Told is what is known: where each running task has its `ssh` port. Jobs have no key pair yet, so that part of
//! OpenPAI's answer is there and empty.

use super::words;
use super::{Asked, Body, JobName, Refusal, reply};
use crate::domain::view::TaskView;
use http::{Response, StatusCode};
use serde_json::{Value, json};

pub(super) async fn answer(asked: &Asked, name: JobName) -> Result<Response<Body>, Refusal> {
    let who = asked.reader().await?;
    let job = asked.owned(name).await?;
    let record = asked.api.get_record(&who, &job.reference()).await;
    let record = record.map_err(|error| reply::refused(&error, &job.shown))?;
    let containers: Vec<Value> = record.view.tasks.iter().flatten().filter_map(container).collect();
    if containers.is_empty() {
        let message = format!("SSH info of job {} is not found.", job.shown);
        return Ok(reply::error(StatusCode::NOT_FOUND, "NoJobSshInfoError", &message));
    }
    let key_pair = json!({
        "folderPath": null,
        "publicKeyFileName": null,
        "privateKeyFileName": null,
        "privateKeyDirectDownloadLink": null,
    });
    Ok(reply::json(StatusCode::OK, &json!({ "containers": containers, "keyPair": key_pair })))
}

fn container(task: &TaskView) -> Option<Value> {
    let (ip, port) = (task.ip.as_ref()?, task.ports.get("ssh")?.first()?);
    let runs = words::task_state(task) == "RUNNING";
    runs.then(|| json!({ "id": task.id, "sshIp": ip, "sshPort": port.to_string() }))
}
