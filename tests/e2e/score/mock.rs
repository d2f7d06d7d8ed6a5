//! The driver's library as a mock, whose state can be changed while an agent asks it.

use crate::harness::Node;
use serde_json::Value;
use std::path::{Path, PathBuf};

const STATE: &str = include_str!("../../data/nvml/8xH100.json");

#[derive(Debug)]
pub(super) struct Mock {
    folder: tempfile::TempDir,
    library: PathBuf,
    state: Value,
}

impl Mock {
    /// If it was built with the tests, beside them.
    pub(super) fn new() -> Option<Self> {
        let program = std::env::current_exe().ok()?;
        let library = program.ancestors().nth(2)?.join("examples/libmock_nvml.so");
        library.exists().then_some(())?;
        let folder = tempfile::Builder::new().prefix("wm-").tempdir().expect("a temporary folder can be made");
        let mock = Self { folder, library, state: serde_json::from_str(STATE).expect("it is ours") };
        mock.write();
        Some(mock)
    }

    pub(super) fn node(&self, node: Node) -> Node {
        let more = format!("{}nvml_library = '{}'\n", node.more, self.library.display());
        let env = vec![("WHARF_MOCK_NVML".to_owned(), self.file().display().to_string())];
        Node { gpus: "nvml".to_owned(), more, env, ..node }
    }

    /// Gives a device's fields other values.
    pub(super) fn change(&mut self, uuid: &str, fields: &Value) {
        let devices = self.state["devices"].as_array_mut().expect("a list");
        let device = devices.iter_mut().find(|device| device["uuid"] == uuid).expect("it is there");
        for (name, value) in fields.as_object().expect("fields are an object") {
            device[name] = value.clone();
        }
        self.write();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    /// At once for every reader.
    fn write(&self) {
        let new: &Path = &self.folder.path().join("state.new");
        std::fs::write(new, self.state.to_string()).expect("the folder is ours");
        std::fs::rename(new, self.file()).expect("the folder is ours");
    }
}
