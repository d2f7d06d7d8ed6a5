//! A task's secret variables on its node: on no disk, but in the memory of the agent, of the shim until its command
//! has begun, and of the command.
//!
//! ```text
//! launch     the command's file has every other variable; `secrets` beside it has their names; the shim gets the whole
//!            command in memory that a descriptor stands for
//! exec, ssh  in the same environment: from the agent's memory, and after its restart from the command's process, which
//!            root may look at, and the task's own user
//! ```

use super::kind::Kind;
use super::process_id::{ProcessId, children};
use super::task::Task;
use crate::domain::secret::Secret;
use crate::shim::spec::Command;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Write};

/// What the kernel takes at a program's start, and a little more: a task can write over its own.
const MAX_ENVIRON_BYTES: u64 = 8 * 1024 * 1024;

type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// The whole command for the shim. It is never a file, so nothing is left of it when the last descriptor is closed.
pub(super) fn in_memory(command: &Command, secrets: &[(String, Secret)]) -> io::Result<File> {
    let mut whole = command.clone();
    whole.env.extend(bytes(secrets));
    let mut file = File::from(memfd_create(c"command", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&whole.encode())?;
    Ok(file)
}

/// The values, for a command beside the task. Those that nobody has any more are left out. Blocking, but brief.
pub fn of<K: Kind>(task: &Task<K>) -> io::Result<Variables> {
    if let Some(secrets) = task.secrets.get() {
        return Ok(bytes(secrets).collect());
    }
    let names = task.dir.read_secret_names()?;
    if names.is_empty() {
        return Ok(Variables::new());
    }
    let found = of_command(&task.shim, &names);
    if found.len() < names.len() {
        tracing::warn!(task = %task.id, "not all secret variables of the task can be read from its command any more");
    }
    Ok(found)
}

fn bytes(secrets: &[(String, Secret)]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    secrets.iter().map(|(name, value)| (name.clone().into_bytes(), value.reveal().as_bytes().to_vec()))
}

/// What the oldest child of the shim was started with that has any of them: the command, or what it has become.
fn of_command(shim: &ProcessId, names: &[String]) -> Variables {
    let of_child = |pid: i32| {
        let mut environ = Vec::new();
        let file = File::open(format!("/proc/{pid}/environ")).ok()?;
        file.take(MAX_ENVIRON_BYTES).read_to_end(&mut environ).ok()?;
        Some(named(&environ, names)).filter(|found| !found.is_empty())
    };
    children(shim).into_iter().find_map(of_child).unwrap_or_default()
}

/// Those variables of an environment that have one of the names; each once.
fn named(environ: &[u8], names: &[String]) -> Variables {
    let entries = || environ.split(|byte| *byte == 0);
    let value = |name: &String| {
        let rest = |entry: &[u8]| Some(entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
        entries().find_map(rest).map(|value| (name.clone().into_bytes(), value))
    };
    names.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};
    use std::process::{Command as Program, Stdio};

    #[test]
    fn the_shim_gets_everything_and_disks_nothing() {
        let command = Command { env: vec![(b"A".to_vec(), b"1".to_vec())], ..Command::default() };
        let secrets = [("S".to_owned(), Secret::new("hidden"))];
        let mut file = in_memory(&command, &secrets).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let env = Command::decode(&bytes).unwrap().env;
        assert_eq!(env, [(b"A".to_vec(), b"1".to_vec()), (b"S".to_vec(), b"hidden".to_vec())]);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(file.metadata().unwrap().nlink(), 0, "no folder has it");
    }

    #[test]
    fn a_later_agent_reads_them_from_the_command() {
        let names = ["S", "EMPTY", "GONE", "S2"].map(str::to_owned);
        let found = named(b"S2=a=b\0XS=no\0S=one\0EMPTY=\0S=two\0SS\0", &names);
        let expected = [("S", "one"), ("EMPTY", ""), ("S2", "a=b")];
        assert_eq!(found, expected.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        let mut child = Program::new("/bin/cat").env("WHARF_TEST_S", "kept").stdin(Stdio::piped()).spawn().unwrap();
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        let found = of_command(&me, &["WHARF_TEST_S".to_owned()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [(b"WHARF_TEST_S".to_vec(), b"kept".to_vec())]);
    }
}
