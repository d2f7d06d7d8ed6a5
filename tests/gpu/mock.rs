//! The mock of the driver's library with a state of its own, and NVML over it in a real worker process.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wharf::domain::gpu::Gpu;
use wharf::gpu::GpuSource;
use wharf::gpu::nvml::{Deadlines, NvmlGpus, NvmlOptions};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A state file that can be changed while it is in use, and a folder in place of `/`.
pub struct Mock {
    dir: tempfile::TempDir,
    pub state: Value,
}

impl Mock {
    /// Starts from one of the files in `tests/data/nvml`.
    pub fn new(file: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nvml").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mock = Self { dir: tempfile::tempdir().unwrap(), state: serde_json::from_str(&text).unwrap() };
        std::fs::create_dir(mock.root()).unwrap();
        mock.write();
        mock
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("state.json")
    }

    /// A file below the folder that stands for `/`.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.state);
        self.write();
    }

    /// At once for every reader.
    fn write(&self) {
        let new = self.dir.path().join("state.new");
        std::fs::write(&new, self.state.to_string()).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    pub fn fail(&mut self, function: &str, error: &str) {
        self.change(|state| state["errors"] = json!({ function: error }));
    }

    pub fn mend(&mut self) {
        self.change(|state| {
            state["errors"] = json!({});
            state["hangs"] = json!([]);
            for device in state["devices"].as_array_mut().unwrap() {
                device["errors"] = json!({});
                device["hangs"] = json!([]);
            }
        });
    }

    /// Deadlines that a busy machine meets and a test can wait for.
    pub fn options(&self) -> NvmlOptions {
        let mut options = NvmlOptions::new(PathBuf::from(env!("CARGO_BIN_EXE_wharf")));
        options.env = vec![("WHARF_MOCK_NVML".into(), self.file().into())];
        options.library = Some(library());
        options.root = self.root();
        // This machine's driver is nobody's business here.
        options.modprobe = self.root().join("nvidia-modprobe");
        options.deadlines = Deadlines {
            open: Duration::from_secs(20),
            device: Duration::from_secs(5),
            sample: Duration::from_secs(2),
            health: Duration::from_secs(2),
            whole: PATIENCE,
            retry: (Duration::from_millis(10), Duration::from_millis(50)),
        };
        options
    }

    pub fn gpus(&self) -> NvmlGpus {
        NvmlGpus::new(self.options()).unwrap()
    }

    /// The workers that use this state and have not ended.
    pub fn workers(&self) -> Vec<i32> {
        let file = self.file();
        let uses = |pid: &i32| {
            let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let holds = |bytes: Vec<u8>, text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
            holds(read("cmdline"), b"gpu-worker") && holds(read("environ"), file.as_os_str().as_encoded_bytes())
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(uses).collect()
    }
}

/// Built with the tests, beside them.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.ancestors().nth(2).unwrap().join("examples/libmock_nvml.so");
    assert!(built.exists(), "{} is missing: 'cargo build --example mock-nvml' makes it", built.display());
    built
}

/// Waits for something that takes its time.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The devices, asked until they answer.
pub async fn devices(gpus: &NvmlGpus) -> Vec<Gpu> {
    eventually("the devices", async || gpus.devices().await.ok()).await.0
}
