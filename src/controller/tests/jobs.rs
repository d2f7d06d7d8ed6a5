//! Job files for the tests.

use crate::api::controller::Submit;
use serde_json::{Value, json};

/// A role: name, tasks, GPUs of each.
pub fn role(name: &str, tasks: u32, gpus: u32) -> Value {
    json!({
        "name": name, "taskNumber": tasks, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": gpus, "command": "true",
    })
}

/// A job that is run once, whatever happens to it but for the platform's faults.
pub fn job(name: &str, roles: &[Value]) -> Value {
    json!({ "jobName": name, "image": "registry/image:1", "taskRoles": roles, "retryCount": 0 })
}

pub fn with(mut value: Value, field: &str, to: Value) -> Value {
    value[field] = to;
    value
}

pub fn submission(job: &Value, request_id: &str) -> Submit {
    Submit {
        file_name: "job.json".to_owned(),
        content: job.to_string().into_bytes(),
        request_id: request_id.to_owned(),
        dry_run: false,
    }
}
