//! Opens files with somebody else's rights: the agent is root, and what it opens for a job must not be more than the job's
//! user may. The kernel decides, with access lists and whatever a server of files says. Blocking.

use nix::unistd::{Uid, User, getgrouplist};
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;

/// A user and groups, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Rights {
    /// Of no account, and so what everybody may.
    pub fn of_nobody() -> Self {
        const NOBODY: u32 = 65534;
        Self { uid: NOBODY, gid: NOBODY, groups: Vec::new() }
    }

    /// Of an account of this node; `None` where there is none of this name.
    pub fn of_account(name: &str) -> io::Result<Option<Self>> {
        let Some(user) = User::from_name(name)? else { return Ok(None) };
        let groups = getgrouplist(&CString::new(name)?, user.gid)?;
        let groups = groups.into_iter().map(|gid| gid.as_raw()).collect();
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups }))
    }

    /// Opens something with these rights. An agent that is not root has its own.
    pub fn open<T>(&self, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !Uid::effective().is_root() || self.uid == 0 {
            return open();
        }
        let _borrowed = Borrowed::by_this_thread(self)?;
        open()
    }
}

/// This thread's rights to files are another's until it is dropped.
struct Borrowed {
    before: Rights,
    /// It stays in its thread.
    _here: PhantomData<*const ()>,
}

impl Borrowed {
    fn by_this_thread(rights: &Rights) -> io::Result<Self> {
        let groups = nix::unistd::getgroups()?.into_iter().map(|gid| gid.as_raw()).collect();
        let before = Rights { uid: 0, gid: nix::unistd::getegid().as_raw(), groups };
        // Dropped on every way out.
        let borrowed = Self { before, _here: PhantomData };
        take(rights)?;
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if take(&self.before).is_err() {
            // Root gets its own rights back; a thread that did not would go on as somebody else.
            std::process::abort();
        }
    }
}

/// By system calls, which are about this thread alone: libc's functions of these names are about all of them.
fn take(rights: &Rights) -> io::Result<()> {
    let (uid, gid, groups) = (rights.uid, rights.gid, &rights.groups);
    // SAFETY: a list and its length. The user is last, as its capabilities go with it, and first on the way back.
    let done = unsafe {
        if uid == 0 {
            libc::syscall(libc::SYS_setfsuid, uid);
        }
        let listed = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They tell what was before, and with a number that nobody has they change nothing.
        listed == 0
            && libc::syscall(libc::SYS_setfsuid, u32::MAX) == i64::from(uid)
            && libc::syscall(libc::SYS_setfsgid, u32::MAX) == i64::from(gid)
    };
    if done { Ok(()) } else { Err(io::Error::other(format!("taking the rights of uid {uid}: not permitted"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    #[test]
    fn files_are_opened_with_others_rights_and_ours_come_back() {
        if !Uid::effective().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for (name, uid, gid, mode) in
            [("root", 0, 0, 0o600), ("user", 4321, 0, 0o600), ("group", 0, 4322, 0o640), ("all", 0, 0, 0o644)]
        {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            chown(&path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let user = Rights { uid: 4321, gid: 99, groups: vec![4322] };
        let opens = |rights: &Rights, name: &str| rights.open(|| File::open(dir.path().join(name))).is_ok();
        let can = |rights: &Rights| ["root", "user", "group", "all"].map(|name| opens(rights, name));
        assert_eq!(can(&user), [false, true, true, true]);
        assert_eq!(can(&Rights { groups: Vec::new(), ..user.clone() }), [false, true, false, true]);
        assert_eq!(can(&Rights::of_nobody()), [false, false, false, true]);
        let made = user.open(|| File::create(dir.path().join("new")));
        assert!(made.is_err(), "the folder is root's");
        assert!(opens(&Rights { uid: 0, ..user }, "root") && File::open(dir.path().join("root")).is_ok());
        File::create(dir.path().join("ours")).unwrap();
        let ours = fs::metadata(dir.path().join("ours")).unwrap();
        assert_eq!((ours.uid(), ours.gid()), (0, 0));
    }

    #[test]
    fn accounts_are_known_by_name() {
        assert_eq!(Rights::of_account("no-such-user-here").unwrap(), None);
        assert_eq!(Rights::of_account("root").unwrap().map(|root| root.uid), Some(0));
    }
}
