//! Folders that jobs name: which they get, and which not, whatever becomes of the paths meanwhile.

use super::*;
use crate::domain::container::JobFiles;
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::domain::policy::MountRule;
use crate::domain::spec::CommandStyle;
use std::fs;
use std::os::unix::fs::symlink;

fn task(files: JobFiles) -> TaskSpec {
    TaskSpec {
        id: TaskId { job: JobId(7), run: RunId(9), role: 0, index: 1 },
        job_name: "mnist".into(),
        user: "ada".into(),
        role_name: "worker".into(),
        image: "python:3.12".into(),
        command: "true".into(),
        command_style: CommandStyle::Shell,
        cpus: 1,
        memory_mb: 1,
        shm_mb: 64,
        gpus: Vec::new(),
        ports: Vec::new(),
        lease_s: None,
        debug_hold_s: None,
        files,
        container: Default::default(),
    }
}

fn resolved(files: JobFiles, allowed: &Allowed) -> Result<JobMounts, RequestError> {
    let image = ImageFacts { user: "1000:100".into(), ..ImageFacts::default() };
    JobMounts::resolve(&task(files), &image, allowed)
}

fn only(dir: &Path) -> Allowed {
    Allowed::only([dir.to_owned()])
}

/// The same path in each of the three fields.
fn each(path: &str) -> [(&'static str, JobFiles); 3] {
    [
        ("dataDir", JobFiles { data_dir: path.to_owned(), ..JobFiles::default() }),
        ("outputDir", JobFiles { output_dir: path.to_owned(), ..JobFiles::default() }),
        ("codeDir", JobFiles { code_dir: path.to_owned(), ..JobFiles::default() }),
    ]
}

#[test]
fn folders_are_mounted_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    fs::create_dir(at("data")).unwrap();
    symlink(at("data"), at("link")).unwrap();
    let text = |name: &str| at(name).to_str().unwrap().to_owned();
    let files = JobFiles {
        code_dir: text("data"),
        data_dir: format!("file://{}", text("link")),
        output_dir: text("out/deep"),
        ..JobFiles::default()
    };
    let found = resolved(files, &only(dir.path())).unwrap();
    let shown = |folder: &Folder| (folder.source.clone(), folder.target.clone(), folder.read_only);
    assert_eq!(found.code.as_ref().map(shown), Some((at("data"), CODE_TARGET.to_owned(), true)));
    let folders: Vec<_> = found.folders.iter().map(shown).collect();
    assert_eq!(folders, [(at("data"), text("link"), true), (at("out/deep"), text("out/deep"), false)]);
    assert!(found.notices.is_empty());
    if Uid::effective().is_root() {
        let made = fs::metadata(at("out/deep")).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 100, 0o755));
        let above = fs::metadata(at("out")).unwrap();
        assert_eq!((above.uid(), above.mode() & 0o022), (0, 0));
    }
    let remote = ["hdfs://h/a", "s3://b/c", "hdfs://h/d"].map(str::to_owned);
    let [code_dir, data_dir, output_dir] = remote;
    let remote = resolved(JobFiles { code_dir, data_dir, output_dir, ..JobFiles::default() }, &Allowed::default());
    assert_eq!(remote, Ok(JobMounts::default()));
}

#[test]
fn only_what_the_operator_allows_is_for_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(root.join("jobs/in")).unwrap();
    fs::create_dir_all(root.join("jobs-not")).unwrap();
    fs::create_dir_all(root.join("crontabs")).unwrap();
    symlink(root.join("crontabs"), root.join("jobs/out")).unwrap();
    symlink(root.join("jobs"), root.join("alias")).unwrap();
    let mounts = Allowed::only([root.join("none"), root.join("alias")]);
    let allowed = Allowed { file: "/etc/wharf/agent.toml".into(), ..mounts };
    for path in [at("jobs"), at("jobs/in"), at("alias/in")] {
        each(&path).into_iter().for_each(|(_, files)| drop(resolved(files, &allowed).unwrap()));
    }
    for path in [
        "/".to_owned(),
        "/var/spool/cron/crontabs".to_owned(),
        root.to_str().unwrap().to_owned(),
        at("crontabs"),
        at("crontabs/new"),
        at("jobs-not"),
        at("jobs/out"),
        at("jobs/out/new"),
        at("absent"),
    ] {
        for (field, files) in each(&path) {
            let said = resolved(files.clone(), &allowed).expect_err(&format!("{field} {path}")).to_string();
            let named = said.starts_with(field) && said.contains(&path) && said.contains(&at("alias"));
            assert!(named && said.contains("/etc/wharf/agent.toml: policy.mounts"), "{said}");
            let error = resolved(files, &Allowed::default()).unwrap_err();
            assert!(error.is_user_error() && error.to_string().contains("policy.mounts"), "{error}");
        }
    }
    assert!(!root.join("crontabs/new").exists());
}

#[test]
fn folders_of_the_system_are_for_no_job_even_where_all_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let own = root.join("wharf/state");
    fs::create_dir_all(&own).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink(root.join("nothing"), root.join("dangling")).unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let allowed = Allowed { refused: vec![own], ..Allowed::only(["/".into()]) };
    let system = ["/", "/etc", "/var", "/run/docker.sock", "relative", "/srv/../etc"].map(str::to_owned);
    let ours = ["etc", "etc/new", "wharf", "wharf/state/deep", "file", "file/below", "dangling"].map(at);
    for path in system.into_iter().chain(ours) {
        for (field, files) in each(&path) {
            let error = resolved(files, &allowed).expect_err(&format!("{field} {path}"));
            assert!(error.is_user_error() && error.to_string().starts_with(field), "{path}: {error}");
        }
    }
    let absent = resolved(JobFiles { data_dir: at("absent"), ..JobFiles::default() }, &allowed).unwrap_err();
    assert!(absent.to_string().contains("not on this node"));
    assert!(!Path::new("/etc/new").exists() && !root.join("nothing").exists());
}

#[test]
fn a_link_that_comes_after_the_check_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for folder in ["jobs/data", "jobs/up", "secret"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let (up, secret) = (root.join("jobs/up"), root.join("secret"));
    let allowed = only(&root.join("jobs"));
    // Before the folder is made.
    let named = allowed.named("outputDir", &up.join("new")).unwrap();
    fs::remove_dir(&up).unwrap();
    symlink(&secret, &up).unwrap();
    assert_eq!(make(&named, Some((1000, 100)), &mut Vec::new()).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(existing("outputDir", &up.join("new"), &named).is_err());
    fs::remove_file(&up).unwrap();
    symlink(&secret, root.join("jobs/end")).unwrap();
    let last = Named { below: "end".into(), ..named };
    assert!(make(&last, Some((1000, 100)), &mut Vec::new()).is_err());
    assert_eq!(fs::metadata(&secret).unwrap().uid(), Uid::effective().as_raw());
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 0);
    // Between the check and dockerd's mount.
    let data = root.join("jobs/data");
    let files = JobFiles { data_dir: data.to_str().unwrap().to_owned(), ..JobFiles::default() };
    let found = resolved(files, &allowed).unwrap();
    let look = |target: &str| fs::metadata(target);
    assert_eq!(found.differing(look), None);
    fs::rename(&data, root.join("jobs/moved")).unwrap();
    assert!(found.differing(look).unwrap().1.contains("No such file"));
    symlink(&secret, &data).unwrap();
    let (folder, why) = found.differing(look).unwrap();
    assert!(folder.source == data && why.contains("replaced"), "{why}");
}

#[test]
fn what_others_put_in_its_place_is_not_given_away() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["full/a", "open"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::set_permissions(at("full"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["full", "open"] {
        let fd = OwnedFd::from(fs::File::open(at(name)).unwrap());
        assert!(give(&fd, None).unwrap_err().to_string().contains("replaced"), "{name}");
    }
}

#[test]
fn an_output_folder_by_default_is_no_duty() {
    let files = JobFiles { output_dir: "/Output/mnist".into(), ..JobFiles::default() };
    let found = resolved(files, &Allowed::default()).unwrap();
    assert!(found.folders.is_empty() && found.notices[0].contains("/Output"), "{found:?}");
}

#[test]
fn mounts_below_a_folder_that_is_read_only_are_refused() {
    let held = Held::at(Path::new("/")).unwrap();
    let folder = |source: &str, read_only| Folder {
        source: source.into(),
        held: held.clone(),
        target: source.into(),
        read_only,
    };
    let files =
        JobMounts { folders: vec![folder("/srv/data", true), folder("/srv/out", false)], ..JobMounts::default() };
    let points = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert!(files.refuse_mounts_below(&points(&["/", "/srv", "/srv/data", "/srv/database", "/srv/out/a"])).is_ok());
    let error = files.refuse_mounts_below(&points(&["/", "/srv/data/deep/set"])).unwrap_err();
    let said = error.to_string();
    assert!(error.is_user_error() && said.contains("dataDir") && said.contains("/srv/data/deep/set"), "{said}");
}

#[test]
fn what_is_only_read_is_not_written_to_nor_what_it_lies_in() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("data/out")).unwrap();
    fs::create_dir_all(root.join("jobs")).unwrap();
    let rule = |path: PathBuf, read_only| MountRule { path, read_only };
    let mounts = vec![rule(root.clone(), false), rule(root.join("data"), true)];
    let allowed = Allowed { mounts, ..Allowed::default() };
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let output = |name: &str| JobFiles { output_dir: path(name), ..JobFiles::default() };
    for name in ["data", "data/out", "data/new", ""] {
        let error = resolved(output(name), &allowed).expect_err(name);
        assert!(error.is_user_error() && error.to_string().contains("data:ro"), "{name}: {error}");
    }
    assert!(!root.join("data/new").exists());
    resolved(output("jobs"), &allowed).unwrap();
    resolved(output("jobs/new"), &allowed).unwrap();
    resolved(JobFiles { data_dir: path("data/out"), ..JobFiles::default() }, &allowed).unwrap();
}

/// In a place of its own for mounts: they are nobody else's, and gone with the thread.
fn with_mounts(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let apart = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS);
            if apart.is_err() {
                // Only root can; the container and the checks of the units run as root.
                assert!(!Uid::effective().is_root(), "{apart:?}");
                return;
            }
            mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
            work();
        });
        done.join().unwrap();
    });
}

fn mount(from: &str, to: &str, flags: libc::c_ulong) {
    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    let (from, to) = (text(from), text(to));
    // SAFETY: terminated texts, and no data.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    nix::errno::Errno::result(result).unwrap();
}

#[test]
fn what_is_kept_from_jobs_is_kept_by_every_mount_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["own/state", "plain", "jobs/own", "jobs/root", "jobs/proc", "jobs/deep/in/own", "jobs/fine/in"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let allowed = Allowed { refused: vec![root.join("own/state")], ..only(&root.join("jobs")) };
    // Of the thread's own: what /proc/self shows is the process's.
    for path in [at("jobs/own"), at("jobs/deep"), at("jobs/fine")] {
        resolved(JobFiles { data_dir: path, ..JobFiles::default() }, &allowed).unwrap();
    }
    with_mounts(|| {
        for (from, to) in [
            (at("own"), at("jobs/own")),
            ("/".to_owned(), at("jobs/root")),
            ("/proc".to_owned(), at("jobs/proc")),
            (at("own/state"), at("jobs/deep/in/own")),
            (at("plain"), at("jobs/fine/in")),
        ] {
            mount(&from, &to, libc::MS_BIND);
        }
        for name in
            ["own", "own/state", "own/state/new", "root", "root/etc", "proc", "deep", "deep/in", "deep/in/own"]
        {
            for (field, files) in each(&at(&format!("jobs/{name}"))) {
                let error = resolved(files, &allowed).expect_err(&format!("{field} {name}"));
                assert!(error.is_user_error() && error.to_string().contains("given to no job"), "{error}");
            }
        }
        assert!(!root.join("own/state/new").exists());
        each(&at("jobs/fine")).into_iter().for_each(|(_, files)| drop(resolved(files, &allowed).unwrap()));
        each(&at("jobs/fine/in")).into_iter().for_each(|(_, files)| drop(resolved(files, &allowed).unwrap()));
    });
}

#[test]
fn what_no_job_may_reach_is_known_also_without_an_output_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap().to_owned();
    // As the controller gives it to jobs that name none.
    let output_dir = "/Output/mnist".to_owned();
    let found = resolved(JobFiles { data_dir, output_dir, ..JobFiles::default() }, &only(dir.path())).unwrap();
    assert!(found.folders.len() == 1 && found.notices.len() == 1, "{found:?}");
    assert_ne!(found.protected, Protected::default());
}

#[test]
fn only_folders_that_were_made_and_are_empty_are_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("jobs")).unwrap();
    let files = |below: &str| {
        let output_dir = root.join("jobs").join(below).to_str().unwrap().to_owned();
        JobFiles { output_dir, ..JobFiles::default() }
    };
    let made = resolved(files("a/b/c"), &only(&root)).unwrap();
    fs::write(root.join("jobs/a/kept"), "").unwrap();
    let there = resolved(files("a/b"), &only(&root)).unwrap();
    there.take_back();
    assert!(root.join("jobs/a/b/c").is_dir());
    made.take_back();
    assert!(root.join("jobs/a/kept").exists() && !root.join("jobs/a/b").exists());
}
