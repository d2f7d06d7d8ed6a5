//! What the local ssh reads: keys in a folder of ours, and an entry for each task.

use crate::cli::context::Context;
use crate::domain::ssh::{SshAccess, alias, known_hosts};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder with a job's key, which nobody else may read.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
    temporary: bool,
}

impl Keys {
    /// For one session: removed with this.
    pub fn temporary(access: &SshAccess) -> io::Result<Self> {
        let parent = runtime_dir().unwrap_or_else(std::env::temp_dir);
        remove_stale(&parent);
        let folder = parent.join(format!("{PREFIX}{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()));
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| named(&folder, error))?;
        let keys = Self { folder, temporary: true };
        keys.write(access)?;
        Ok(keys)
    }

    /// For configurations that are used later: in the user's runtime folder, which goes at logout, or else the cache.
    pub fn kept(access: &SshAccess) -> io::Result<Self> {
        let cache = || {
            let set = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        };
        let parent = runtime_dir().or_else(cache).ok_or_else(|| {
            io::Error::other("neither XDG_RUNTIME_DIR nor HOME is set: there is no place for the job's key")
        })?;
        // Another cluster may have a job of this number too.
        let fingerprint: String =
            access.public_key.chars().rev().filter(char::is_ascii_alphanumeric).take(12).collect();
        let folder = parent.join("wharf/ssh").join(format!("job-{}-{fingerprint}", access.job_id));
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| named(&folder, error))?;
        let keys = Self { folder, temporary: false };
        keys.write(access)?;
        Ok(keys)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts a file there; the new one is whole whenever somebody looks.
    pub fn put(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let (place, draft) = (self.folder.join(name), self.folder.join(format!(".{name}.{}", std::process::id())));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(content.as_bytes())?;
            fs::rename(&draft, &place)
        };
        write().map_err(|error| named(&place, error))?;
        Ok(place)
    }

    fn write(&self, access: &SshAccess) -> io::Result<()> {
        self.put("id", &access.private_key)?;
        self.put("known_hosts", &known_hosts(access.job_id, &access.host_key))?;
        Ok(())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

const PREFIX: &str = "wharf-ssh-";

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir())
}

/// Removes folders of ours whose program was killed and could not.
fn remove_stale(parent: &Path) {
    let uid = nix::unistd::getuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let ours = fs::symlink_metadata(entry.path()).is_ok_and(|found| found.is_dir() && found.uid() == uid);
        if ours && pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// One task as ssh knows it.
#[derive(Debug)]
pub struct Entry {
    /// `ROLE-INDEX`.
    pub host: String,
    proxy: String,
}

impl Entry {
    pub fn of(context: &Context, job_id: u64, role: &str, index: u32) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let program = program.to_str().ok_or_else(|| io::Error::other("this program's path is no text"))?;
        let (job, index_text) = (job_id.to_string(), index.to_string());
        let mut words = vec![program, "--controller", &context.controllers];
        if let Some(user) = &context.named_user {
            words.extend(["--as-user", user]);
        }
        words.extend(["ssh", "--stdio", &job, "--role", role, "--index", &index_text]);
        // ssh expands '%' before a shell reads it.
        let words: Vec<String> = words.into_iter().map(|word| quoted(word).replace('%', "%%")).collect();
        Ok(Self { host: format!("{role}-{index}"), proxy: words.join(" ") })
    }

    pub fn text(&self, access: &SshAccess, user: &str, keys: &Keys) -> String {
        let folder = keys.folder().display().to_string().replace('%', "%%");
        format!(
            "\nHost {}\n    ProxyCommand {}\n    User {user}\n    IdentityFile \"{folder}/id\"\n    IdentitiesOnly yes\n    \
             HostKeyAlias {}\n    UserKnownHostsFile \"{folder}/known_hosts\"\n    StrictHostKeyChecking yes\n    \
             LogLevel ERROR\n",
            self.host,
            self.proxy,
            alias(access.job_id),
        )
    }
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-,:=@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ssh::SshSeed;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn words_survive_ssh_and_a_shell() {
        for (word, expected) in
            [("a/b-c.d:1,e", "a/b-c.d:1,e"), ("it's", r"'it'\''s'"), ("", "''"), ("$(x) y", "'$(x) y'")]
        {
            assert_eq!(quoted(word), expected);
        }
        let context = Context::for_tests();
        let entry = Entry::of(&context, 7, "a~b", 3).unwrap();
        assert_eq!(entry.host, "a~b-3");
        assert!(
            entry.proxy.contains("--controller 127.0.0.1:1 ssh --stdio 7 --role 'a~b' --index 3"),
            "{}",
            entry.proxy
        );
    }

    #[test]
    fn a_temporary_key_is_private_and_goes() {
        let access = SshAccess::of(7, &SshSeed::new([7; 64]));
        let keys = Keys::temporary(&access).unwrap();
        let folder = keys.folder().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("id"))), (0o700, 0o600));
        assert_eq!(fs::read_to_string(folder.join("id")).unwrap(), access.private_key);
        drop(keys);
        assert!(!folder.exists());
    }

    #[test]
    fn folders_of_dead_programs_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |pid: u32| dir.path().join(format!("{PREFIX}{pid}-x"));
        let (dead, alive) = (folder(u32::MAX), folder(std::process::id()));
        [&dead, &alive, &dir.path().join("wharf-ssh-other")]
            .into_iter()
            .for_each(|path| fs::create_dir(path).unwrap());
        remove_stale(dir.path());
        assert!(!dead.exists() && alive.exists() && dir.path().join("wharf-ssh-other").exists());
    }
}
