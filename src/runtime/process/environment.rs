//! What a process task's command starts with: its argument vector, environment and working directory.
//! Pure but for looking whether a shell or a directory is there.

use super::account::Account;
use crate::domain::spec::CommandStyle;
use crate::domain::task::TaskSpec;
use crate::runtime::rights::Rights;
use std::path::{Path, PathBuf};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// An image of this form names the working directory of a process task.
const DIR_PREFIX: &str = "dir:";

/// A working directory, and whether it is the task's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkDir {
    pub path: PathBuf,
    /// Made by us for this task: it is given to the task's user.
    pub own: bool,
    pub notice: Option<String>,
}

/// Whether the job names its working directory.
pub fn names_dir(image: &str) -> bool {
    image.starts_with(DIR_PREFIX)
}

/// Decides where a task of this image runs; `Err` is a sentence for the submitter.
/// Only what its account may look at is told of.
pub fn work_dir(image: &str, own: &Path, account: &Rights) -> Result<WorkDir, String> {
    if let Some(dir) = image.strip_prefix(DIR_PREFIX) {
        let path = PathBuf::from(dir);
        if !path.is_absolute() {
            return Err(format!("image: '{image}' is not allowed: 'dir:' is followed by an absolute path"));
        }
        return match account.open(|| std::fs::metadata(&path)) {
            Ok(found) if found.is_dir() => Ok(WorkDir { path, own: false, notice: None }),
            Ok(_) => Err(format!("image: '{image}' names a file: 'dir:' is followed by a directory of the node")),
            Err(error) => Err(format!("image: the directory of '{image}' cannot be used: {error}")),
        };
    }
    let notice = (!image.is_empty()).then(|| {
        format!("image '{image}' is ignored: this node runs tasks as plain processes ('dir:/path' names a directory)")
    });
    Ok(WorkDir { path: own.to_owned(), own: true, notice })
}

/// The argument vector of the task's command, and a notice if it is not run by the shell it was written for.
pub fn argv(task: &TaskSpec) -> (Vec<String>, Option<String>) {
    match task.command_style {
        CommandStyle::Shell => shell(&task.command, Path::new("/bin/bash")),
    }
}

fn shell(command: &str, bash: &Path) -> (Vec<String>, Option<String>) {
    let (shell, notice) = if bash.exists() {
        (bash.display().to_string(), None)
    } else {
        ("/bin/sh".to_owned(), Some("the command is run by /bin/sh: this node has no /bin/bash".to_owned()))
    };
    (vec![shell, "-c".to_owned(), command.to_owned()], notice)
}

/// What a login of the account would have, then `given`; of one name the last wins and keeps its first place.
pub fn environment(account: &Account, cwd: &Path, given: &[(String, String)]) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let base = [
        ("PATH", PATH.to_owned()),
        ("HOME", text(&account.home)),
        ("USER", account.name.clone()),
        ("LOGNAME", account.name.clone()),
        ("SHELL", text(&account.shell)),
        ("LANG", "C.UTF-8".to_owned()),
        ("PAI_WORK_DIR", text(cwd)),
    ];
    let mut env: Vec<(String, String)> = Vec::with_capacity(base.len() + given.len());
    let mut places = std::collections::HashMap::new();
    for (name, value) in base.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(given.iter().cloned()) {
        match places.get(&name) {
            Some(place) => {
                let entry: &mut (String, String) = &mut env[*place];
                entry.1 = value;
            }
            None => {
                places.insert(name.clone(), env.len());
                env.push((name, value));
            }
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            name: "ada".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: "/home/ada".into(),
            shell: "/bin/zsh".into(),
        }
    }

    #[test]
    fn later_variables_win_once() {
        let given = [("A", "1"), ("HOME", "/data"), ("A", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let env = environment(&account(), Path::new("/w"), &given);
        let of = |name: &str| env.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(of("A"), ["2"]);
        assert_eq!(of("HOME"), ["/data"]);
        assert_eq!(of("USER"), ["ada"]);
        assert_eq!(of("PAI_WORK_DIR"), ["/w"]);
    }

    #[test]
    fn images_name_a_directory_or_are_ignored_visibly() {
        let (own, any) = (Path::new("/own"), Rights::of_nobody());
        assert_eq!(work_dir("dir:/tmp", own, &any), Ok(WorkDir { path: "/tmp".into(), own: false, notice: None }));
        let ignored = work_dir("python:3.12", own, &any).unwrap();
        assert!(ignored.own && ignored.notice.unwrap().contains("'python:3.12'"));
        assert!(work_dir("dir:relative", own, &any).unwrap_err().contains("absolute"));
        assert!(work_dir("dir:/no/such/dir", own, &any).unwrap_err().starts_with("image: "));
        assert!(work_dir("dir:/etc/passwd", own, &any).unwrap_err().contains("file"));
        // What is in a folder that its account may not enter, it is not told.
        if nix::unistd::Uid::effective().is_root() {
            let closed = tempfile::tempdir().unwrap();
            std::fs::create_dir(closed.path().join("there")).unwrap();
            std::fs::set_permissions(closed.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let said = |name: &str| {
                let image = format!("dir:{}", closed.path().join(name).display());
                work_dir(&image, own, &any).unwrap_err().replace(name, "")
            };
            assert_eq!(said("there"), said("none"));
            assert!(said("there").contains("Permission denied"));
        }
    }

    #[test]
    fn without_bash_the_shell_is_told() {
        let (argv, notice) = shell("true", Path::new("/no/bash"));
        assert_eq!(argv, ["/bin/sh", "-c", "true"]);
        assert!(notice.is_some());
    }
}
