//! Copies of code: what is in them, and what ends them.

use super::*;
use std::os::unix::fs::symlink;

fn code(folder: &Path) -> Code {
    let (uid, gid) = own();
    let readers = vec![Rights { uid, gid, groups: Vec::new() }];
    Code { path: folder.to_owned(), held: Held::at(&folder.canonicalize().unwrap()).unwrap(), readers }
}

fn list(folder: &Path) -> Result<Vec<Entry>, CodeError> {
    code(folder).list()
}

/// Whoever runs the tests: others cannot be given files without rights.
fn own() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Source and target of a copy, and a place that is neither.
struct Folders {
    dir: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        ["code", "work", "outside"].into_iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
        Self { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    fn copy(&self, entries: &[Entry]) -> Result<(), CodeError> {
        let to = Held::at(&self.at("work")).unwrap();
        code(&self.at("code")).copy(entries, &to, own(), &CancellationToken::new())
    }

    fn copy_all(&self) -> Result<(), CodeError> {
        self.copy(&list(&self.at("code"))?)
    }
}

#[test]
fn links_stay_links_and_nothing_is_set_user_id() {
    let folders = Folders::new();
    let long = format!("deep/{}", "n".repeat(180));
    fs::create_dir(folders.at("code/deep")).unwrap();
    fs::write(folders.at("code/run.sh"), "echo").unwrap();
    fs::write(folders.at("code").join(&long), "long").unwrap();
    fs::set_permissions(folders.at("code/run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(folders.at("code/deep"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", folders.at("code/out")).unwrap();
    symlink("/etc", folders.at("code/folder")).unwrap();
    nix::unistd::mkfifo(&folders.at("code/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    folders.copy_all().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(folders.at("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["deep", "folder", "out", "run.sh"]);
    let found = fs::metadata(folders.at("work/run.sh")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    assert_eq!(found.mtime(), fs::metadata(folders.at("code/run.sh")).unwrap().mtime());
    assert_eq!(fs::read_link(folders.at("work/out")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(folders.at("work/folder")).unwrap(), Path::new("/etc"));
    assert_eq!(fs::read(folders.at("work").join(long)).unwrap(), b"long");
}

#[test]
fn what_is_in_the_way_is_replaced_and_never_written_through() {
    let folders = Folders::new();
    fs::create_dir(folders.at("code/sub")).unwrap();
    fs::write(folders.at("code/sub/a"), "new").unwrap();
    fs::write(folders.at("code/b"), "new").unwrap();
    fs::write(folders.at("code/c"), "new").unwrap();
    // An image, or another container that has the same folder, put these here.
    fs::write(folders.at("outside/a"), "safe").unwrap();
    symlink(folders.at("outside"), folders.at("work/sub")).unwrap();
    symlink(folders.at("outside/a"), folders.at("work/b")).unwrap();
    fs::hard_link(folders.at("outside/a"), folders.at("work/c")).unwrap();
    folders.copy_all().unwrap();
    assert_eq!(fs::read(folders.at("outside/a")).unwrap(), b"safe");
    for name in ["work/sub/a", "work/b", "work/c"] {
        assert_eq!(fs::read(folders.at(name)).unwrap(), b"new", "{name}");
    }
    // Again, over itself; and a folder that is in a file's way.
    folders.copy_all().unwrap();
    fs::remove_file(folders.at("work/b")).unwrap();
    fs::create_dir(folders.at("work/b")).unwrap();
    let error = folders.copy_all().unwrap_err();
    assert!(matches!(&error, CodeError::Write { path, .. } if path == Path::new("b")), "{error}");
}

#[test]
fn a_link_that_appears_in_the_copy_leads_nowhere() {
    let folders = Folders::new();
    fs::create_dir(folders.at("code/sub")).unwrap();
    fs::write(folders.at("code/sub/a"), "new").unwrap();
    let entries = list(&folders.at("code")).unwrap();
    let (folder, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.kind == Kind::Folder);
    folders.copy(&folder).unwrap();
    fs::remove_dir(folders.at("work/sub")).unwrap();
    symlink(folders.at("outside"), folders.at("work/sub")).unwrap();
    let error = folders.copy(&files).unwrap_err();
    assert!(matches!(&error, CodeError::Write { path, .. } if path == Path::new("sub/a")), "{error}");
    assert_eq!(fs::read_dir(folders.at("outside")).unwrap().count(), 0);
}

#[test]
fn too_much_code_is_refused_before_any_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(list(dir.path()), Err(CodeError::Empty { path: dir.path().to_owned() }));
    let file = File::create(dir.path().join("big")).unwrap();
    file.set_len(MAX_BYTES).unwrap();
    assert_eq!(list(dir.path()).map(|entries| entries.len()), Ok(1));
    file.set_len(MAX_BYTES + 1).unwrap();
    let error = list(dir.path()).unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("200 MB"), "{error}");
    let deep = dir.path().join("d/".repeat(MAX_DEPTH + 1));
    file.set_len(0).unwrap();
    fs::create_dir_all(deep).unwrap();
    assert!(matches!(list(dir.path()), Err(CodeError::TooMany { .. })));
    let gone = code(dir.path());
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(gone.list(), Err(CodeError::Empty { path: dir.path().to_owned() }));
}

#[test]
fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
    let folders = Folders::new();
    let file = folders.at("code/a");
    fs::write(&file, "12345").unwrap();
    let entries = list(&folders.at("code")).unwrap();
    fs::write(&file, "123").unwrap();
    let error = folders.copy(&entries).unwrap_err();
    assert!(error.to_string().contains("shorter"), "{error}");
    fs::write(&file, "123456789").unwrap();
    folders.copy(&entries).unwrap();
    assert_eq!(fs::read(folders.at("work/a")).unwrap(), b"12345");
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    assert!(matches!(folders.copy(&entries), Err(CodeError::Read { .. })));
}

#[test]
fn a_folder_that_becomes_a_link_is_not_read_through() {
    let folders = Folders::new();
    fs::create_dir(folders.at("code/sub")).unwrap();
    fs::write(folders.at("code/sub/a"), "public").unwrap();
    fs::write(folders.at("outside/a"), "secret").unwrap();
    let entries = list(&folders.at("code")).unwrap();
    fs::rename(folders.at("code/sub"), folders.at("moved")).unwrap();
    symlink(folders.at("outside"), folders.at("code/sub")).unwrap();
    let error = folders.copy(&entries).unwrap_err();
    assert!(matches!(&error, CodeError::Read { path, .. } if path.starts_with(folders.at("code"))), "{error}");
    // Its files alone, as if the folder itself had been there a moment longer.
    let files: Vec<_> = entries.into_iter().filter(|entry| entry.kind != Kind::Folder).collect();
    assert!(folders.copy(&files).is_err());
    assert!(!folders.at("work/sub/a").exists());
    // The whole folder: what is held is read, and not what is at its path.
    let held = code(&folders.at("code"));
    fs::rename(folders.at("code"), folders.at("elsewhere")).unwrap();
    symlink(folders.at("outside"), folders.at("code")).unwrap();
    assert_eq!(held.list().unwrap().len(), 1);
}

#[test]
fn whoever_gave_up_gets_no_more() {
    let folders = Folders::new();
    fs::write(folders.at("code/a"), "1").unwrap();
    let (entries, cancel) = (list(&folders.at("code")).unwrap(), CancellationToken::new());
    cancel.cancel();
    let to = Held::at(&folders.at("work")).unwrap();
    assert_eq!(code(&folders.at("code")).copy(&entries, &to, own(), &cancel), Err(CodeError::Cancelled));
    assert!(!folders.at("work/a").exists());
}

#[test]
fn a_folder_that_was_there_keeps_its_mode() {
    let folders = Folders::new();
    for (path, mode) in [("code/sub", 0o755), ("code/new", 0o755), ("work/sub", 0o711)] {
        fs::create_dir(folders.at(path)).unwrap();
        fs::set_permissions(folders.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(folders.at("code/sub/a"), "new").unwrap();
    folders.copy_all().unwrap();
    let mode = |path| fs::metadata(folders.at(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("work/sub"), mode("work/new")), (0o711, 0o755));
    assert_eq!(fs::read(folders.at("work/sub/a")).unwrap(), b"new");
}

#[test]
fn what_is_mounted_in_the_way_or_read_only_is_the_jobs_mistake() {
    let folders = Folders::new();
    fs::create_dir_all(folders.at("code/proc/self")).unwrap();
    let entries = list(&folders.at("code")).unwrap();
    // On every machine a file system of its own.
    let root = Held::at(Path::new("/")).unwrap();
    for entries in [&entries[..], &entries[1..]] {
        let copied = code(&folders.at("code")).copy(entries, &root, own(), &CancellationToken::new());
        let error = copied.unwrap_err();
        assert!(matches!(error, CodeError::Mounted { .. }) && error.is_user_error(), "{error}");
    }
    let read_only = CodeError::writing(Path::new("a"), &io::Error::from_raw_os_error(libc::EROFS));
    assert!(read_only.is_user_error() && read_only.to_string().contains("read-only"), "{read_only}");
    assert!(!CodeError::writing(Path::new("a"), &io::Error::from_raw_os_error(libc::ENOSPC)).is_user_error());
}
