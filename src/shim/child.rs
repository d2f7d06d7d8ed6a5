//! Starts the user's command: everything that can be prepared is prepared before the fork, the child then makes only
//! plain system calls, and tells over a pipe which program it runs or which step failed.

use super::exit::Why;
use super::forked;
use super::spec::{Command, ShimSpec};
use super::sys::{self, EACCES, ENOENT, ENOTDIR, O_WRONLY};
use super::task::Files;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

const RLIMIT_STACK: u32 = 3;
/// For what the kernel puts beside arguments and environment, and the line of a script's interpreter.
const EXEC_SLACK_BYTES: u64 = 64 * 1024;

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The report pipe's place in the child: the first after standard error.
const REPORT_FD: RawFd = 3;

/// One thing the child does before the program runs. The numbers go over the report pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Trying = 1,
    Session,
    Cgroup,
    Limit,
    Groups,
    Folder,
    Streams,
    Exec,
}

impl Step {
    fn of(code: u8) -> Option<Self> {
        use Step::*;
        [Trying, Session, Cgroup, Limit, Groups, Folder, Streams, Exec].into_iter().find(|step| *step as u8 == code)
    }
}

/// A program that may be there, and the argument list it would get.
struct Candidate {
    alternative: u32,
    path: CString,
}

/// Argument lists and environment as execve wants them. The pointers point into `_strings`, which never changes.
struct Vectors {
    _strings: Vec<CString>,
    argv: Vec<Vec<*const c_char>>,
    env: Vec<*const c_char>,
    /// What the kernel counts of all of it.
    bytes: u64,
}

/// A command that is being started.
pub struct Launch {
    pub pid: i32,
    /// CLOCK_REALTIME and CLOCK_BOOTTIME at the fork.
    pub at_ns: (u64, u64),
    /// Ends when the program runs or the child has given up.
    pub report: OwnedFd,
    candidates: Vec<Candidate>,
    cwd: Option<CString>,
    received: Vec<u8>,
}

/// What became of a start.
pub enum Outcome {
    Runs { alternative: u32, program: String },
    Failed(Why),
}

fn failed(step: &str, errno: i32, message: String) -> Why {
    Why::ExecFailed { step: step.to_owned(), errno, message }
}

/// Forks and lets the child set itself up. Beside the start: where standard output and standard error are read.
pub fn launch(command: &Command, spec: &ShimSpec, files: &Files) -> Result<(Launch, [OwnedFd; 2]), Why> {
    let vectors = Vectors::build(command)?;
    let candidates = candidates(command)?;
    let cwd = command.cwd.as_deref().map(|path| c_string(path, "the working folder")).transpose()?;
    let pipe = |what: &str| {
        sys::pipe()
            .map_err(|errno| failed("pipe", errno, format!("make a pipe for {what}: {}", sys::describe(errno))))
    };
    let (report, report_in) = pipe("the start report")?;
    let (stdout, stdout_in) = pipe("standard output")?;
    let (stderr, stderr_in) = pipe("standard error")?;
    // Without a descriptor from the agent: a pipe that nobody writes to, which reads like /dev/null.
    let (closed, _) = pipe("standard input")?;
    for end in [&report, &stdout, &stderr] {
        // Cannot fail for a pipe just made.
        let _ = sys::set_nonblocking(end);
    }
    [&stdout, &stderr].into_iter().for_each(|end| sys::grow_pipe(end, 1 << 20));
    let streams = [files.stdin.as_ref().unwrap_or(&closed), &stdout_in, &stderr_in].map(AsRawFd::as_raw_fd);
    let setup = Setup {
        spec,
        files,
        streams,
        report: report_in.as_raw_fd(),
        cwd: cwd.as_deref(),
        parent: std::process::id() as i32,
        drops_groups: spec.groups.is_some() || spec.uid.is_some() || spec.gid.is_some(),
    };
    let folder = files.cgroup_folder.as_ref();
    let at_ns = (sys::realtime_ns(), sys::boottime_ns());
    let pid = forked::fork_into(folder, |born_there| setup.run(born_there, &candidates, &vectors))
        .map_err(|errno| failed("fork", errno, format!("start a process: {}", sys::describe(errno))))?;
    Ok((Launch { pid, at_ns, report, candidates, cwd, received: Vec::new() }, [stdout, stderr]))
}

impl Launch {
    /// Reads the report; `None` while the child is still at it.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let mut bytes = [0; 512];
        loop {
            match sys::read_fd(self.report.as_raw_fd(), &mut bytes) {
                Ok(0) => return Some(self.judge()),
                Ok(length) => self.received.extend_from_slice(&bytes[..length]),
                Err(sys::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn judge(&self) -> Outcome {
        let mut last = None;
        for message in self.received.as_chunks::<9>().0 {
            let [step, a, b, c, d, e, f, g, h] = *message;
            let index = u32::from_le_bytes([a, b, c, d]) as usize;
            let errno = i32::from_le_bytes([e, f, g, h]);
            match Step::of(step) {
                Some(Step::Trying) => last = self.candidates.get(index),
                Some(step) => return Outcome::Failed(self.explain(step, errno, last)),
                None => {}
            }
        }
        match last {
            Some(Candidate { alternative, path }) => {
                Outcome::Runs { alternative: *alternative, program: path.to_string_lossy().into_owned() }
            }
            // Killed while it set itself up.
            None => Outcome::Failed(failed("start", 0, "the process was ended before it ran the command".to_owned())),
        }
    }

    fn explain(&self, step: Step, errno: i32, tried: Option<&Candidate>) -> Why {
        let why = sys::describe(errno);
        let name = |text: Option<&CString>| text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
        match step {
            Step::Exec => failed("exec", errno, format!("run {}: {why}", name(tried.map(|tried| &tried.path)))),
            Step::Folder => failed("chdir", errno, format!("enter the folder {}: {why}", name(self.cwd.as_ref()))),
            Step::Cgroup => failed("join cgroup", errno, format!("join the task's cgroup: {why}")),
            Step::Limit => failed("set limit", errno, format!("set a resource limit: {why}")),
            Step::Groups => failed("set user", errno, format!("become the task's user and groups: {why}")),
            Step::Session => failed("setsid", errno, format!("make a session: {why}")),
            Step::Trying | Step::Streams => failed("set streams", errno, format!("set the standard streams: {why}")),
        }
    }
}

/// Everything the child needs, by reference: it may not allocate.
struct Setup<'a> {
    spec: &'a ShimSpec,
    files: &'a Files,
    streams: [RawFd; 3],
    report: RawFd,
    cwd: Option<&'a CStr>,
    parent: i32,
    drops_groups: bool,
}

impl Setup<'_> {
    /// The child. Only async-signal-safe calls from here on.
    fn run(&self, born_there: bool, candidates: &[Candidate], vectors: &Vectors) {
        match self.prepare(born_there) {
            Ok(()) => {
                make_room(vectors.bytes);
                tell(REPORT_FD, Step::Exec, 0, self.try_all(candidates, vectors));
            }
            Err((step, errno)) => tell(self.report, step, 0, errno),
        }
    }

    fn prepare(&self, born_there: bool) -> Result<(), (Step, i32)> {
        let at = |step: Step| move |errno: i32| (step, errno);
        forked::new_session().map_err(at(Step::Session))?;
        if let Some(folder) = self.files.cgroup_folder.as_ref().filter(|_| !born_there) {
            forked::join(folder.as_raw_fd()).map_err(at(Step::Cgroup))?;
        }
        for procs in &self.files.cgroup_procs {
            sys::write_fd(procs.as_raw_fd(), b"0").map_err(at(Step::Cgroup))?;
        }
        if let (Some(adjustment), Some(proc)) = (self.spec.oom_score_adj, self.files.proc.as_ref()) {
            set_oom_score(proc.as_fd(), adjustment);
        }
        for limit in &self.spec.limits {
            forked::set_limit(limit.resource, limit.soft, limit.hard).map_err(at(Step::Limit))?;
        }
        self.spec.umask.into_iter().for_each(forked::set_umask);
        if self.drops_groups {
            forked::set_groups(self.spec.groups.as_deref().unwrap_or(&[])).map_err(at(Step::Groups))?;
        }
        self.spec.gid.map_or(Ok(()), forked::set_gid).map_err(at(Step::Groups))?;
        self.spec.uid.map_or(Ok(()), forked::set_uid).map_err(at(Step::Groups))?;
        // A change of user clears this, so it comes after.
        sys::die_with_parent(self.parent);
        self.cwd.map_or(Ok(()), forked::change_folder).map_err(at(Step::Folder))?;
        for (place, stream) in self.streams.into_iter().enumerate() {
            forked::place(stream, place as RawFd).map_err(at(Step::Streams))?;
        }
        forked::place_closing(self.report, REPORT_FD).map_err(at(Step::Streams))?;
        // All of them close on exec as well; this shortens the time in which the child holds them.
        sys::close_from(REPORT_FD + 1);
        sys::reset_signals();
        Ok(())
    }

    fn try_all(&self, candidates: &[Candidate], vectors: &Vectors) -> i32 {
        let mut result = ENOENT;
        for (index, candidate) in candidates.iter().enumerate() {
            tell(REPORT_FD, Step::Trying, index as u32, 0);
            let Some(argv) = vectors.argv.get(candidate.alternative as usize) else { continue };
            match forked::execute(&candidate.path, argv, &vectors.env) {
                ENOENT | ENOTDIR => {}
                // As a shell does: a later folder of the path may have one that may be run.
                EACCES => result = EACCES,
                other => return other,
            }
        }
        result
    }
}

/// The kernel takes arguments and environment of a quarter of the stack's soft limit (2 MiB with the usual 8), and of
/// 6 MiB at most. Where they need more, the soft limit is raised for the command and what it starts, which inherit
/// the environment and could not execute anything otherwise; nothing sets it back. The hard limit stays.
fn make_room(bytes: u64) {
    forked::raise_soft_limit(RLIMIT_STACK, (bytes + EXEC_SLACK_BYTES).saturating_mul(4));
}

/// Nine bytes: step, index, errno.
fn tell(fd: RawFd, step: Step, index: u32, errno: i32) {
    let mut message = [0; 9];
    message[0] = step as u8;
    message[1..5].copy_from_slice(&index.to_le_bytes());
    message[5..].copy_from_slice(&errno.to_le_bytes());
    let _ = sys::write_fd(fd, &message);
}

/// Best effort: a failure leaves the shim as likely a victim as its command, which is no reason not to run it.
fn set_oom_score(proc: BorrowedFd<'_>, adjustment: i32) {
    let mut text = [0_u8; 8];
    let mut length = text.len();
    let mut rest = adjustment.clamp(-1000, 1000).unsigned_abs();
    loop {
        length -= 1;
        text[length] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if adjustment < 0 {
        length -= 1;
        text[length] = b'-';
    }
    let mut opened = sys::open_at(Some(proc), c"self/oom_score_adj", O_WRONLY);
    if opened.is_err() {
        // Inherited from the shim; while it lasts, /proc/self belongs to root. No process of the task exists yet.
        sys::set_dumpable(true);
        opened = sys::open_at(Some(proc), c"self/oom_score_adj", O_WRONLY);
    }
    if let Ok(file) = opened {
        let _ = sys::write_fd(file.as_raw_fd(), &text[length..]);
    }
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Why> {
    CString::new(bytes).map_err(|_| failed("exec", sys::EINVAL, format!("{what} contains a NUL byte")))
}

impl Vectors {
    fn build(command: &Command) -> Result<Self, Why> {
        let mut strings = Vec::new();
        let mut keep = |text: CString| {
            // The heap block that the pointer means stays where it is when the CString moves.
            let pointer = text.as_ptr();
            strings.push(text);
            pointer
        };
        let mut argv = Vec::new();
        for arguments in &command.alternatives {
            let mut list = Vec::with_capacity(arguments.len() + 1);
            for argument in arguments {
                list.push(keep(c_string(argument, "an argument of the command")?));
            }
            list.push(std::ptr::null());
            argv.push(list);
        }
        let mut env = Vec::new();
        for (name, value) in effective(&command.env) {
            env.push(keep(c_string(&[name, value].join(&b'='), "the environment")?));
        }
        env.push(std::ptr::null());
        let texts: usize = strings.iter().map(|text| text.as_bytes_with_nul().len()).sum();
        let pointers = argv.iter().map(Vec::len).sum::<usize>() + env.len();
        let bytes = (texts + pointers * size_of::<*const c_char>()) as u64;
        Ok(Self { _strings: strings, argv, env, bytes })
    }
}

/// Each name once, with its last value.
fn effective(env: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let last: std::collections::HashMap<&[u8], usize> =
        env.iter().enumerate().map(|(place, (name, _))| (name.as_slice(), place)).collect();
    let is_last = move |(place, (name, _)): &(usize, &(Vec<u8>, Vec<u8>))| last.get(name.as_slice()) == Some(place);
    env.iter().enumerate().filter(is_last).map(|(_, (name, value))| (name.as_slice(), value.as_slice()))
}

fn candidates(command: &Command) -> Result<Vec<Candidate>, Why> {
    let path = command.env.iter().rev().find(|(name, _)| name == b"PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let mut found = Vec::new();
    for (alternative, arguments) in (0..).zip(&command.alternatives) {
        let program = arguments.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| failed("exec", ENOENT, "the command is empty".to_owned()))?;
        if program.contains(&b'/') {
            found.push(Candidate { alternative, path: c_string(program, "the program")? });
            continue;
        }
        for folder in path.split(|byte| *byte == b':') {
            let folder = if folder.is_empty() { b".".as_slice() } else { folder };
            found.push(Candidate { alternative, path: c_string(&[folder, program].join(&b'/'), "the program")? });
        }
    }
    if found.is_empty() {
        return Err(failed("exec", ENOENT, "there is no command".to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn programs_are_looked_for_in_the_path_of_the_command() {
        let env = vec![pair("PATH", "/wrong"), pair("A", "1"), pair("PATH", "/x::/y")];
        let command =
            Command { alternatives: vec![vec![b"/bin/bash".to_vec()], vec![b"sh".to_vec()]], env, cwd: None };
        let found: Vec<_> = candidates(&command)
            .unwrap_or_default()
            .into_iter()
            .map(|candidate| (candidate.alternative, candidate.path.into_string().unwrap()))
            .collect();
        let expected = [(0, "/bin/bash"), (1, "/x/sh"), (1, "./sh"), (1, "/y/sh")];
        assert_eq!(found, expected.map(|(number, path)| (number, path.to_owned())));
        let kept: Vec<_> = effective(&command.env).collect();
        assert_eq!(kept, [(b"A".as_slice(), b"1".as_slice()), (b"PATH", b"/x::/y")]);
    }

    #[test]
    fn a_nul_byte_or_an_empty_command_is_refused_with_a_reason() {
        let refused = |alternatives| {
            let command = Command { alternatives, env: Vec::new(), cwd: None };
            candidates(&command).map(drop).and_then(|()| Vectors::build(&command).map(drop)).unwrap_err()
        };
        for (bad, word) in
            [(vec![], "no command"), (vec![vec![b"".to_vec()]], "empty"), (vec![vec![b"/a\0b".to_vec()]], "NUL")]
        {
            assert!(matches!(refused(bad), Why::ExecFailed { message, .. } if message.contains(word)), "{word}");
        }
    }
}
