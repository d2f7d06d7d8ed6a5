//! What the shim's program does for SSH in its container, as `wharf-shim COMMAND`:
//!
//! - `ssh-user` says as whom one logs in, or why one cannot;
//! - `ssh-server [PORT]` becomes the image's sshd, on its input and output or on a port;
//! - `ssh-session` is what sshd runs for every session: it gives it the task's environment.
//!
//! These run beside the task's own shim, as the container's user. They change no file of the image: what sshd needs is
//! in `FOLDER`, which the agent has written, and the one folder that sshd wants to be there is made if it is not.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Where keys and configuration are, in the container.
pub const FOLDER: &str = "/.wharf/ssh";
/// The program, in the container.
pub const PROGRAM: &str = "/.wharf/wharf-shim";
pub const USER: &str = "ssh-user";
pub const SERVER: &str = "ssh-server";
pub const SESSION: &str = "ssh-session";
/// With which `ssh-user` and `ssh-server` end where there is no server to be had.
pub const NO_SERVER: i32 = 69;

/// Where distributions have it. It has to be called by its whole path.
pub const SERVERS: [&str; 5] =
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd", "/usr/local/bin/sshd", "/opt/ssh/sbin/sshd"];
const SFTP_SERVERS: [&str; 6] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/sftp-server",
    "/usr/local/libexec/sftp-server",
];
const MISSING_FOLDER: &str = "Missing privilege separation directory: ";
/// Of the session, and not of the task.
const OF_SESSION: [&[u8]; 6] = [b"TERM", b"SHELL", b"USER", b"LOGNAME", b"SHLVL", b"_"];

/// Runs one of the commands; does not return unless `name` is none of them.
pub fn run(name: &str, argument: Option<&str>) {
    let failure = match name {
        USER => match server() {
            Ok(server) => {
                println!("{}", server.user);
                std::process::exit(0);
            }
            Err(why) => why,
        },
        SERVER => match server() {
            Ok(server) => server.become_sshd(argument),
            Err(why) => why,
        },
        SESSION => session(),
        _ => return,
    };
    eprintln!("{failure}");
    std::process::exit(if name == SESSION { 126 } else { NO_SERVER });
}

struct Server {
    sshd: &'static str,
    user: String,
    pam: bool,
}

/// A server that would start, or a sentence that says why there is none.
fn server() -> Result<Server, String> {
    let sshd = SERVERS.into_iter().find(|path| Path::new(path).is_file());
    let sshd = sshd.ok_or_else(|| "the image has no ssh server".to_owned())?;
    let config = format!("{FOLDER}/sshd_config");
    fs::metadata(&config).map_err(|error| format!("this task has no keys: {config}: {error}"))?;
    let uid = fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"))?.uid();
    let passwd = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let user = name_of(&passwd, uid).ok_or_else(|| format!("user {uid} has no name in the image's /etc/passwd"))?;
    let locked = is_locked(&fs::read_to_string("/etc/shadow").unwrap_or_default(), &user);
    // Without PAM sshd refuses accounts that are locked, as those without a password often are.
    let pam = locked && uid == 0 && Path::new("/etc/pam.d/sshd").exists();
    if locked && !pam {
        return Err(format!("user {user} is locked in the image's /etc/shadow"));
    }
    let server = Server { sshd, pam, user };
    if let Err(said) = server.test() {
        let folder = said.lines().find_map(|line| line.split_once(MISSING_FOLDER)).map(|(_, folder)| folder.trim());
        let folder = folder.ok_or_else(|| format!("the image's ssh server does not start: {}", said.trim()))?;
        fs::create_dir_all(folder).map_err(|error| format!("the image's ssh server needs {folder}: {error}"))?;
        server.test().map_err(|said| format!("the image's ssh server does not start: {}", said.trim()))?;
    }
    Ok(server)
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let line = passwd.lines().find(|line| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid))?;
    line.split(':').next().map(str::to_owned)
}

fn is_locked(shadow: &str, user: &str) -> bool {
    let locked = |line: &str| {
        let mut fields = line.split(':');
        fields.next() == Some(user) && fields.next().is_some_and(|password| password.starts_with('!'))
    };
    shadow.lines().any(locked)
}

impl Server {
    fn command(&self) -> Command {
        let mut command = Command::new(self.sshd);
        command.args(["-f", &format!("{FOLDER}/sshd_config")]);
        if self.pam {
            command.args(["-o", "UsePAM=yes"]);
        }
        if let Some(sftp) = SFTP_SERVERS.iter().find(|path| Path::new(path).is_file()) {
            command.args(["-o", &format!("Subsystem sftp {sftp}")]);
        }
        command
    }

    /// What it says against starting.
    fn test(&self) -> Result<(), String> {
        match self.command().arg("-t").output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(format!("{}: {error}", self.sshd)),
        }
    }

    fn become_sshd(&self, port: Option<&str>) -> String {
        let mut command = self.command();
        match port {
            Some(port) => command.args(["-D", "-e", "-p", port]),
            None => command.args(["-i", "-e", "-o", "LogLevel=ERROR"]),
        };
        format!("{}: {}", self.sshd, command.exec())
    }
}

/// Becomes the user's shell, or the command that was asked for, in the task's environment.
fn session() -> String {
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let asked = std::env::var_os("SSH_ORIGINAL_COMMAND");
    let mut command = Command::new(&shell);
    let environment = fs::read(format!("{FOLDER}/environment")).unwrap_or_default();
    for (name, value) in variables(&environment) {
        command.env(std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value));
    }
    let names = fs::read(format!("{FOLDER}/secrets")).unwrap_or_default();
    let of_command = environ_with(&names);
    for (name, value) in variables(&of_command).filter(|(name, _)| names.split(|byte| *byte == 0).any(|n| n == *name))
    {
        command.env(std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value));
    }
    command.env_remove("SSH_ORIGINAL_COMMAND");
    if let Some(asked) = asked {
        command.arg("-c").arg(asked);
    }
    // Not a login shell: an image's profile would set another PATH than the task has.
    format!("{}: {}", shell.display(), command.exec())
}

/// What the oldest process that may be looked at was started with and that has these variables: the task's command.
/// They lie in no file.
fn environ_with(names: &[u8]) -> Vec<u8> {
    let mut wanted = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let Some(first) = wanted.next() else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let has = |environ: &Vec<u8>| variables(environ).any(|(name, _)| name == first);
    pids.into_iter().find_map(|pid| fs::read(format!("/proc/{pid}/environ")).ok().filter(has)).unwrap_or_default()
}

fn variables(environment: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let of_session = |name: &[u8]| OF_SESSION.contains(&name) || name.starts_with(b"SSH_");
    environment.split(|byte| *byte == 0).filter_map(move |entry| {
        let equals = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        (!of_session(name)).then_some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_variables_are_read_as_they_are() {
        let passwd = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("ada"));
        assert_eq!(name_of(passwd, 7), None);
        let shadow = "root:*:1::::::\nada:!:1::::::\nbob:!!:1::::::\n";
        assert_eq!(["root", "ada", "bob", "eve"].map(|user| is_locked(shadow, user)), [false, true, true, false]);
        let found: Vec<_> = variables(b"A=b=c\0TERM=x\0SSH_TTY=y\0=z\0EMPTY=\0LINES=1\n2\0").collect();
        assert_eq!(found, [(&b"A"[..], &b"b=c"[..]), (b"EMPTY", b""), (b"LINES", b"1\n2")]);
    }
}
