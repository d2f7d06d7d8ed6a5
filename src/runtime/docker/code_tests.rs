//! Archives of code: what is in them, and what ends them.

use super::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::symlink;

fn code(folder: &Path) -> Code {
    Code { path: folder.to_owned(), held: Held::at(&folder.canonicalize().unwrap()).unwrap() }
}

fn list(folder: &Path) -> Result<Vec<Entry>, CodeError> {
    code(folder).list()
}

fn pack(folder: &Path, entries: &[Entry], owner: (u32, u32), to: impl Write) -> Result<(), CodeError> {
    code(folder).pack(entries, owner, to)
}

fn packed(folder: &Path, owner: (u32, u32)) -> Result<BTreeMap<String, (tar::Header, Vec<u8>)>, CodeError> {
    let mut bytes = Vec::new();
    pack(folder, &list(folder)?, owner, &mut bytes)?;
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path.trim_end_matches('/').to_owned(), (entry.header().clone(), content))
    });
    Ok(entries.collect())
}

#[test]
fn links_stay_links_and_owners_are_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let long = format!("deep/{}", "n".repeat(180));
    fs::create_dir(at("deep")).unwrap();
    fs::write(at("run.sh"), "echo").unwrap();
    fs::write(at(&long), "long").unwrap();
    fs::set_permissions(at("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("/etc/passwd", at("out")).unwrap();
    symlink("/etc", at("folder")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = packed(dir.path(), (1000, 100)).unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["deep", &long, "folder", "out", "run.sh"]);
    assert!(found.values().all(|(header, _)| (header.uid().unwrap(), header.gid().unwrap()) == (1000, 100)));
    let (header, content) = &found["run.sh"];
    assert_eq!((header.mode().unwrap(), content.as_slice()), (0o755, &b"echo"[..]));
    for name in ["out", "folder"] {
        let (header, content) = &found[name];
        assert!(header.entry_type().is_symlink() && content.is_empty(), "{name}");
    }
    assert_eq!(found[&long].1, b"long");
}

#[test]
fn too_much_code_is_refused_before_any_is_sent() {
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
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "12345").unwrap();
    let entries = list(dir.path()).unwrap();
    fs::write(&file, "123").unwrap();
    let error = pack(dir.path(), &entries, (0, 0), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("shorter"), "{error}");
    fs::write(&file, "123456789").unwrap();
    let mut bytes = Vec::new();
    pack(dir.path(), &entries, (0, 0), &mut bytes).unwrap();
    assert_eq!(&bytes[512..520], b"12345\0\0\0");
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    assert!(pack(dir.path(), &entries, (0, 0), Vec::new()).is_err());
}

#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, outside) = (dir.path().join("code"), dir.path().join("outside"));
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(folder.join("sub/a"), "public").unwrap();
    fs::write(outside.join("a"), "secret").unwrap();
    let held = code(&folder);
    let entries = held.list().unwrap();
    fs::rename(folder.join("sub"), dir.path().join("moved")).unwrap();
    symlink(&outside, folder.join("sub")).unwrap();
    let mut bytes = Vec::new();
    let error = held.pack(&entries, (0, 0), &mut bytes).unwrap_err();
    assert!(matches!(&error, CodeError::Read { path, .. } if path.starts_with(&folder)), "{error}");
    // Its files alone, as if the folder itself had been there a moment longer.
    let files: Vec<_> = entries.into_iter().filter(|entry| entry.kind != Kind::Folder).collect();
    assert!(held.pack(&files, (0, 0), &mut bytes).is_err());
    assert!(!bytes.windows(6).any(|part| part == b"secret"));
    // As it is, the link is packed as one.
    let found = packed(&folder, (0, 0)).unwrap();
    assert!(found.len() == 1 && found["sub"].0.entry_type().is_symlink());
    // The whole folder: what is held is read, and not what is at its path.
    fs::rename(&folder, dir.path().join("elsewhere")).unwrap();
    symlink(&outside, &folder).unwrap();
    assert_eq!(held.list().unwrap().len(), 1);
}
