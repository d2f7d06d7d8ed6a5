//! The driver's library as a mock, whose state can be changed while an agent asks it, and a folder in the place of the
//! machine's `/sys`.

use crate::harness::Node;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STATE: &str = include_str!("../../data/nvml/8xH100.json");

/// Adapters of one port each that works.
const ADAPTERS: [&str; 4] = ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"];
const WORKS: [(&str, &str); 4] = [
    ("state", "4: ACTIVE"),
    ("phys_state", "5: LinkUp"),
    ("rate", "400 Gb/sec (4X NDR)"),
    ("link_layer", "InfiniBand"),
];

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
        for (adapter, (file, text)) in ADAPTERS.iter().flat_map(|adapter| WORKS.map(|file| (adapter, file))) {
            mock.put(adapter, file, text);
        }
        Some(mock)
    }

    pub(super) fn node(&self, node: Node) -> Node {
        let (library, root) = (self.library.display(), self.root());
        let more = format!("{}nvml_library = '{library}'\nhost_root = '{}'\n", node.more, root.display());
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

    /// Puts other words into files of an adapter's port; none: takes the adapter away.
    pub(super) fn change_port(&self, adapter: &str, files: Option<&BTreeMap<String, String>>) {
        match files {
            Some(files) => files.iter().for_each(|(file, text)| self.put(adapter, file, text)),
            None => std::fs::remove_dir_all(self.infiniband().join(adapter)).expect("it was there"),
        }
    }

    fn put(&self, adapter: &str, file: &str, text: &str) {
        let port = self.infiniband().join(adapter).join("ports/1");
        std::fs::create_dir_all(&port).expect("the folder is ours");
        std::fs::write(port.join(file), format!("{text}\n")).expect("the folder is ours");
    }

    fn infiniband(&self) -> PathBuf {
        self.root().join("sys/class/infiniband")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
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
