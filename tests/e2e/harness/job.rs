//! Job files in a few words.

use serde_json::{Value, json};

/// A role of small tasks.
pub fn role(name: &str, count: u32, command: &str) -> Value {
    json!({ "name": name, "taskNumber": count, "cpuNumber": 1, "memoryMB": 256, "gpuNumber": 0, "command": command })
}

/// A job that is not run again.
pub fn job(name: &str, roles: &[Value]) -> Value {
    json!({ "jobName": name, "image": "none", "retryCount": 0, "taskRoles": roles })
}

/// `value` with other fields.
pub fn with(mut value: Value, fields: &Value) -> Value {
    let fields = fields.as_object().expect("fields are an object");
    for (name, field) in fields {
        value[name] = field.clone();
    }
    value
}

/// Words for a shell: nothing in them is special.
pub fn quoted(text: impl AsRef<std::path::Path>) -> String {
    format!("'{}'", text.as_ref().display())
}

pub fn ended(state: &Value) -> bool {
    matches!(state.as_str(), Some("SUCCEEDED" | "FAILED" | "STOPPED"))
}
