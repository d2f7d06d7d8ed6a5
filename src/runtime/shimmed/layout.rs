//! Where a task's files are, and the small records that let a later agent take it over.
//! Blocking file access; decides nothing.
//!
//! ```text
//! STATE/shim/wharf-shim-CRC       the shim's program: stays for tasks that outlive an upgrade
//! STATE/tasks/TASK/task.json      what was prepared        shim.json   which process the shim is
//!                                 (each with a copy, X.copy.json; X.damaged.json was set aside)
//!                  spec, command  what the shim is told    exit        its word on the end
//!                  secrets        the names of what `command` leaves out
//!                  started.json   when the command began   log.N       log segments
//!                  work/          the task's own working directory
//!                  execs/         commands beside it
//! RUN/TASK/s                      the shim connects here, or
//! STATE/tasks/TASK/mount/s        where the task sees nothing else of the node, and the shim lies beside it
//! ```

use super::process_id::ProcessId;
use super::tree;
use crate::domain::ids::{Generation, TaskId};
use crate::domain::level::{self, Level};
use crate::domain::task::TaskSpec;
use crate::domain::time::Timestamp;
use crate::runtime::Recorded;
use crate::shim::exit::ExitRecord;
use crate::shim::spec::{Command, ShimSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The shim's socket in its directory: short, because socket paths end at 108 bytes.
pub const SOCKET_NAME: &str = "s";
/// The shim's program in the folder that its task sees.
pub const SHIM_NAME: &str = "wharf-shim";
/// Larger records are damage: a task cannot write them, a disk fault can.
const MAX_RECORD_BYTES: u64 = 32 * 1024 * 1024;

/// `task.json`: facts that hold for the task's whole life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord<F> {
    /// The name of the kind.
    #[serde(default = "first_kind")]
    pub runtime: String,
    /// Of the program that prepared the task: of all its files, and of its shim.
    #[serde(default = "first_level")]
    pub level: Level,
    pub spec: TaskSpec,
    /// The decision that it was prepared for.
    #[serde(default)]
    pub generation: Generation,
    /// Known to its shim and us alone.
    pub nonce: String,
    pub notices: Vec<String>,
    /// What its kind of runtime needs to know.
    #[serde(flatten)]
    pub facts: F,
}

/// What tells of which kind a record is.
#[derive(Deserialize)]
struct KindOf {
    #[serde(default = "first_kind")]
    runtime: String,
    #[serde(default = "first_level")]
    level: Level,
}

/// Of records from before there was a choice.
fn first_kind() -> String {
    "process".to_owned()
}

/// Of records from before there were levels.
fn first_level() -> Level {
    Level::FIRST
}

/// `started.json`: spares whoever adopts a running task from waiting until its shim calls back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    pub started_at: Timestamp,
    pub child_pid: u32,
    /// The task's, so that no other task's start is taken for it.
    #[serde(default)]
    pub nonce: String,
    /// The command, if it still ran when this was written.
    pub child: Option<ProcessId>,
}

/// The two roots of a runtime.
#[derive(Debug, Clone)]
pub struct Layout {
    tasks: PathBuf,
    shims: PathBuf,
    /// `None`: each socket lies in a folder that its task sees.
    run: Option<PathBuf>,
}

/// The places of one task.
#[derive(Debug, Clone)]
pub struct TaskDir {
    pub dir: PathBuf,
    pub socket_dir: PathBuf,
    /// The task's user may be anybody, and connects to the socket through a mount of its folder.
    pub mounted: bool,
}

impl Layout {
    pub fn create(state_dir: &Path, run_dir: &Path) -> io::Result<Self> {
        make_run_dir(run_dir)?;
        Self::of_state(state_dir, Some(run_dir.to_owned()))
    }

    /// For tasks that see a folder of theirs with the shim and its socket, mounted from the state directory: that is on
    /// a disk from which programs may run, and no cleaner of temporary files comes by.
    pub fn create_mounted(state_dir: &Path) -> io::Result<Self> {
        Self::of_state(&std::path::absolute(state_dir)?, None)
    }

    fn of_state(state_dir: &Path, run: Option<PathBuf>) -> io::Result<Self> {
        let layout = Self { tasks: state_dir.join("tasks"), shims: state_dir.join("shim"), run };
        // Other users pass through to their own `work`, and list nothing.
        make_dirs(&layout.tasks, 0o711)?;
        make_dirs(&layout.shims, 0o755)?;
        Ok(layout)
    }

    pub fn task(&self, id: TaskId) -> TaskDir {
        let dir = self.tasks.join(id.to_string());
        let socket_dir = self.run.as_ref().map_or_else(|| dir.join("mount"), |run| run.join(id.to_string()));
        TaskDir { dir, socket_dir, mounted: self.run.is_none() }
    }

    /// Tasks with a folder in the state or run directory.
    pub fn tasks(&self) -> io::Result<Vec<TaskId>> {
        let mut found = Vec::new();
        for root in std::iter::once(&self.tasks).chain(&self.run) {
            let entries = match fs::read_dir(root) {
                Ok(entries) => entries,
                // A cleaner of temporary files may have taken the run directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("listing", root, error)),
            };
            for entry in entries {
                let name = entry?.file_name();
                found.extend(name.to_str().and_then(|name| name.parse::<TaskId>().ok()));
            }
        }
        Ok(found)
    }

    /// Writes the program once per content: running tasks keep the file that they were started from.
    pub fn install_shim(&self, program: &[u8], crc: u32) -> io::Result<PathBuf> {
        let path = self.shims.join(format!("wharf-shim-{crc:08x}"));
        // Compared whole: a power cut may have left one of the right length and wrong content.
        let complete = fs::read(&path).is_ok_and(|found| found == program);
        if !complete {
            write_atomically(&path, program, 0o755)?;
        }
        Ok(path)
    }
}

impl TaskDir {
    pub fn create(&self) -> io::Result<()> {
        // What a task gets by a mount nobody has to pass through here for; keys are in it.
        make_dirs(&self.dir, if self.mounted { 0o700 } else { 0o711 })?;
        self.create_socket_dir()
    }

    /// Makes the socket's folder if it is not there: a cleaner of temporary files may have taken it.
    pub fn create_socket_dir(&self) -> io::Result<()> {
        self.socket_dir.parent().map_or(Ok(()), make_run_dir)?;
        make_dirs(&self.socket_dir, if self.mounted { 0o711 } else { 0o700 })
    }

    /// Puts the shim where the task sees it. A link, so that a thousand tasks take the disk of one.
    pub fn add_shim(&self, program: &Path) -> io::Result<()> {
        let place = self.socket_dir.join(SHIM_NAME);
        remove_file(&place)?;
        if fs::hard_link(program, &place).is_err() {
            fs::copy(program, &place).map_err(|error| at("copying the shim to", &place, error))?;
        }
        Ok(())
    }

    pub fn log(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("log.{segment}"))
    }

    pub fn exit(&self) -> PathBuf {
        self.dir.join("exit")
    }

    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join(SOCKET_NAME)
    }

    /// Log segments, empty, in order.
    pub fn create_segments(&self, count: u32) -> io::Result<Vec<File>> {
        (0..count).map(|segment| create_file(&self.log(segment))).collect()
    }

    pub fn create_exit(&self) -> io::Result<File> {
        create_file(&self.exit())
    }

    /// Makes the task's own working directory, given to its user where we may.
    pub fn create_work(&self, uid: u32, gid: u32) -> io::Result<()> {
        let work = self.work();
        make_dirs(&work, 0o700)?;
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&work, Some(uid), Some(gid)).map_err(|error| at("giving away", &work, error))?;
        }
        Ok(())
    }

    pub fn write_task<F: Serialize>(&self, record: &TaskRecord<F>) -> io::Result<()> {
        write_twice(&self.dir.join("task.json"), record)
    }

    /// The record of a task of the kind `runtime`. Another kind's is an error, and no reason to take it for gone; so is one
    /// of a level that is not known.
    pub fn read_task<F: DeserializeOwned>(&self, runtime: &str) -> io::Result<Option<TaskRecord<F>>> {
        let path = self.dir.join("task.json");
        let Some(KindOf { runtime: found, level }) = read_either(&path)? else { return Ok(None) };
        level.check_kept("it").map_err(|error| at("reading", &path, io::Error::other(error.message)))?;
        if found != runtime {
            let message = format!("it belongs to the {found} runtime, and this node now has the {runtime} runtime");
            return Err(at("reading", &path, io::Error::other(message)));
        }
        read_either(&path)
    }

    /// Puts the decision that the task was prepared for into a record that names none.
    pub fn add_generation<F>(&self, runtime: &str, generation: Generation) -> io::Result<()>
    where
        F: DeserializeOwned + Serialize,
    {
        match self.read_task::<F>(runtime)? {
            Some(record) if record.generation == Generation::default() && generation > record.generation => {
                self.write_task(&TaskRecord { generation, ..record })
            }
            _ => Ok(()),
        }
    }

    /// What the task's records say of it to an agent that has none of its own.
    pub fn read_recorded<F: DeserializeOwned>(&self, runtime: &str) -> io::Result<Option<Recorded>> {
        let Some(record) = self.read_task::<F>(runtime)? else { return Ok(None) };
        let started = undamaged(self.read_start())?.filter(|start| start.nonce == record.nonce);
        let present = undamaged(self.read_shim())?.is_some();
        let TaskRecord { spec, generation, .. } = record;
        Ok(Some(Recorded { spec, generation, started_at: started.map(|start| start.started_at), present }))
    }

    pub fn write_shim(&self, shim: &ProcessId) -> io::Result<()> {
        write_twice(&self.dir.join("shim.json"), shim)
    }

    pub fn read_shim(&self) -> io::Result<Option<ProcessId>> {
        read_either(&self.dir.join("shim.json"))
    }

    pub fn write_start(&self, start: &StartRecord) -> io::Result<()> {
        write_json(&self.dir.join("started.json"), start)
    }

    pub fn read_start(&self) -> io::Result<Option<StartRecord>> {
        read_json(&self.dir.join("started.json"))
    }

    /// Who led a session of the task: its shim, and its command. Damaged records name nobody.
    pub fn session_leaders(&self) -> io::Result<Vec<ProcessId>> {
        let shim = undamaged(self.read_shim())?;
        let child = undamaged(self.read_start())?.and_then(|start| start.child);
        Ok(shim.into_iter().chain(child).collect())
    }

    /// Forgets which process the shim was: it is gone.
    pub fn remove_shim(&self) -> io::Result<()> {
        let path = self.dir.join("shim.json");
        // In this order: as long as one is there, the task counts as not removed.
        remove_file(&copy_of(&path)).and_then(|()| remove_file(&path))
    }

    /// Writes what the shim reads as its specification, and opens it for the shim.
    pub fn write_spec(&self, spec: &ShimSpec) -> io::Result<File> {
        write_for_shim(&self.dir.join("spec"), &spec.encode())
    }

    /// Writes what the shim runs, and opens it for the shim. Kept for `exec`, which runs in the same environment.
    pub fn write_command(&self, command: &Command) -> io::Result<File> {
        write_for_shim(&self.dir.join("command"), &command.encode())
    }

    /// Which variables the shim is told that are not in its command's file; none leaves no file.
    pub fn write_secret_names(&self, names: &[String]) -> io::Result<()> {
        let path = self.dir.join("secrets");
        if names.is_empty() { remove_file(&path) } else { write_json(&path, &names) }
    }

    pub fn read_secret_names(&self) -> io::Result<Vec<String>> {
        Ok(read_json(&self.dir.join("secrets"))?.unwrap_or_default())
    }

    pub fn read_command(&self) -> io::Result<Option<Command>> {
        let path = self.dir.join("command");
        let Some(bytes) = read_bounded(&path)? else { return Ok(None) };
        Command::decode(&bytes).map(Some).map_err(|error| damaged(&path, error))
    }

    /// The shim's word on the end; `None` while there is none.
    pub fn read_exit(&self) -> io::Result<Option<ExitRecord>> {
        let path = self.exit();
        let Some(bytes) = read_bounded(&path)? else { return Ok(None) };
        ExitRecord::decode_file(&bytes).map_err(|error| damaged(&path, error))
    }

    /// Notes a command beside the task, for an agent that finds it without its caller.
    pub fn note_exec(&self, leader: &ProcessId) -> io::Result<PathBuf> {
        let folder = self.dir.join("execs");
        make_dirs(&folder, 0o700)?;
        let path = folder.join(leader.pid.to_string());
        write_json(&path, leader)?;
        Ok(path)
    }

    /// Commands beside the task that an earlier agent process has noted and not seen end.
    pub fn take_execs(&self) -> Vec<ProcessId> {
        let notes = fs::read_dir(self.dir.join("execs")).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let leader = undamaged(read_json(&entry.path())).ok().flatten();
            fs::remove_file(entry.path()).ok();
            leader
        };
        notes.filter_map(read).collect()
    }

    pub fn remove_socket_dir(&self) -> io::Result<()> {
        tree::remove(&self.socket_dir).map_err(|error| at("removing", &self.socket_dir, error))
    }

    /// Everything but the socket directory: log, records, working directory.
    pub fn remove_state(&self) -> io::Result<()> {
        tree::remove(&self.dir).map_err(|error| at("removing", &self.dir, error))
    }
}

/// The kind of the tasks that have not been removed: the record of a shim goes with its task.
pub fn unfinished(state_dir: &Path) -> Option<String> {
    let tasks = fs::read_dir(state_dir.join("tasks")).ok()?;
    tasks
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| dir.join("shim.json").exists())
        .find_map(|dir| read_either::<KindOf>(&dir.join("task.json")).ok()?.map(|found| found.runtime))
}

/// Others pass through to sockets that are for them. A folder that is there already has the rights that it should have.
fn make_run_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() { Ok(()) } else { make_dirs(path, 0o711) }
}

fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| at("creating", parent, error))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at("creating", path, error)),
        _ => {}
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| at("opening up", path, error))
}

fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(|error| at("creating", path, error))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    write_atomically(path, &level::grown(text), 0o600)
}

/// For records without which a task that runs cannot be taken over: one damaged file is not the end of it.
fn write_twice<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_json(path, value)?;
    write_json(&copy_of(path), value)
}

fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy.json")
}

/// As [`read_json`], from the copy where the record itself is gone or makes no sense. Then it is put back, and what made no
/// sense is kept beside it.
fn read_either<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let first = read_json(path);
    let missing = match &first {
        Ok(found) => found.is_none(),
        Err(error) => error.kind() == io::ErrorKind::InvalidData,
    };
    let copy = copy_of(path);
    let Some(second) = Some(()).filter(|()| missing).and_then(|()| read_json(&copy).ok().flatten()) else {
        return first;
    };
    let why = first.err().map_or_else(|| "it is gone".to_owned(), |error| error.to_string());
    let aside = path.with_extension("damaged.json");
    tracing::error!(record = %path.display(), aside = %aside.display(), why, "a record is damaged: its copy is used");
    fs::rename(path, &aside).ok();
    // Else the copy is found again.
    read_bounded(&copy).ok().flatten().and_then(|bytes| write_atomically(path, &bytes, 0o600).ok());
    Ok(Some(second))
}

/// `None` where there is no file; a damaged one is an error that names it.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(text) = read_bounded(path)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(path, error))
}

fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("reading", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(|error| at("reading", path, error))?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        return Err(damaged(path, format!("more than {MAX_RECORD_BYTES} bytes")));
    }
    Ok(Some(bytes))
}

fn damaged(path: &Path, error: impl ToString) -> io::Error {
    at("reading", path, io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// A record whose content makes no sense is as good as none. One that could not be read may be there: an error.
pub fn undamaged<T>(read: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "a record is damaged");
            Ok(None)
        }
        read => read,
    }
}

fn write_for_shim(path: &Path, content: &[u8]) -> io::Result<File> {
    write_atomically(path, content, 0o600)?;
    File::open(path).map_err(|error| at("opening", path, error))
}

/// A reader sees the old content, or the new. Not after a power cut, when a file may be empty: these records speak of
/// processes, which are gone then, and four of them made durable would cost every task eight waits for the disk.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two agents of one test directory must not share a half-written file.
    name.push(format!(".{}.{:08x}", std::process::id(), uuid::Uuid::new_v4().as_fields().0));
    let draft = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(content)?;
        // The umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| {
        fs::remove_file(&draft).ok();
        at("writing", path, error)
    })
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("removing", path, error)),
        _ => Ok(()),
    }
}

fn at(operation: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation} {}: {error}", path.display()))
}
