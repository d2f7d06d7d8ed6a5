//! What a task does later, or has from elsewhere, to get more than the node's rules give it.

use super::hijack::{Image, open_folder, output_in};
use super::*;
use crate::domain::container::{ContainerSpec, JobFiles};
use crate::domain::policy::{PortRules, RunTime, UserIds};
use crate::domain::task::AssignedPorts;
use std::os::unix::fs::{PermissionsExt, chown};

fn of_user(user: &str) -> ContainerSpec {
    ContainerSpec { user: Some(user.to_owned()), ..ContainerSpec::default() }
}

/// A node with these rules.
fn start(place: &Place, policy: Policy) -> crate::runtime::contract::Subject {
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig { policy, ..place.config() };
    let runtime = Arc::new(DockerRuntime::new(config, sender).unwrap());
    crate::runtime::contract::Subject { runtime, events }
}

fn ranges(text: &str) -> Option<UserIds> {
    Some(UserIds::parse([text]).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_beside_a_task_is_whom_the_task_began_as() {
    let Some(place) = Place::new("docker: a_command_beside_a_task_is_whom") else { return };
    let script = "printf 'root:x:0:0::/:/bin/sh\\nada:x:1234:1234::/:/bin/sh\\n' >etc/passwd; chmod 666 etc/passwd";
    let image = Image::of(&place, script, &["USER ada"]);
    let mut subject = place.start();
    let become_root = "echo ada:x:0:0::/:/bin/sh >/etc/passwd; cat /etc/passwd; id -u; id -g; sleep 600";
    let task = TaskSpec { image: image.name.clone(), ..place.task(become_root) };
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "ada:x:0:0::/:/bin/sh\n1234\n1234\n").await;
    let argv = ["/bin/sh", "-c", "id -u; id -g"].map(str::to_owned).into();
    let mut session = subject.runtime.exec(task.id, ExecSpec { argv, ..ExecSpec::default() }).await.unwrap();
    let mut said = Vec::new();
    while let Some(more) = session.output.recv().await {
        if let ExecOutput::Stdout(more) = more.unwrap() {
            said.extend(more);
        }
    }
    assert_eq!(text(&said), "1234\n1234\n");
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_not_for_jobs_is_refused_and_another_is_not() {
    let Some(place) = Place::new("docker: a_group_that_is_not_for_jobs") else { return };
    let script = "printf 'ada:x:1234:1234::/:/bin/sh\\n' >etc/passwd; printf 'secret:x:5000:ada\\n' >etc/group";
    let image = Image::of(&place, script, &[]);
    let policy = Policy { users: ranges("1000-1999"), ..place.config().policy };
    let mut subject = start(&place, policy);
    // By number, and by what the image says of its user.
    for user in ["1234:5000", "ada"] {
        let task = TaskSpec { image: image.name.clone(), container: of_user(user), ..place.task("true") };
        let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
        let said = &refused.message;
        assert!(refused.user_error && said.contains("policy.groups") && said.contains("gid 5000"), "{said}");
        place.assert_nothing_left(task.id);
    }
    // Docker's own choice for a number that the image does not know is group 0.
    let task = TaskSpec { image: image.name.clone(), container: of_user("1500"), ..place.task("id -g") };
    assert!(subject.run(&task).await.is_success());
    assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), "0\n");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_job_leaves_no_folder() {
    let Some(place) = Place::new("docker: a_refused_job_leaves_no_folder") else { return };
    let script = "printf 'ada:x:1234:1234::/:/bin/sh\\nbob:x:3000:100::/:/bin/sh\\n' >etc/passwd";
    let image = Image::of(&place, script, &[]);
    let policy = Policy { users: ranges("1000-1999"), ..place.config().policy };
    let mut subject = start(&place, policy);
    let folder = place.dir.path().canonicalize().unwrap().join("made/for/it");
    let of = |user: &str| TaskSpec {
        image: image.name.clone(),
        container: of_user(user),
        files: output_in(&folder),
        ..place.task("true")
    };
    for user in ["3000:100", "bob"] {
        let refused = subject.runtime.prepare(&of(user), &[]).await.unwrap_err();
        assert!(refused.user_error && refused.message.contains("policy.users"), "{refused}");
        assert!(!place.dir.path().join("made").exists(), "{user}");
    }
    let task = of("ada");
    assert!(subject.run(&task).await.is_success());
    assert!(folder.is_dir());
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_asks_for_no_more_processes_than_the_node_gives() {
    let Some(place) = Place::new("docker: a_job_asks_for_no_more_processes") else { return };
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig { pids_limit: 50, ..place.config() };
    let runtime = Arc::new(DockerRuntime::new(config, sender).unwrap());
    let mut subject = crate::runtime::contract::Subject { runtime, events };
    let script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
    for (asked, given) in [(Some(4000), "50\n"), (Some(40), "40\n"), (None, "50\n")] {
        let container = ContainerSpec { pids_limit: asked, ..ContainerSpec::default() };
        let task = TaskSpec { container, ..place.task(script) };
        subject.run(&task).await;
        assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), given, "{asked:?}");
        subject.runtime.remove(task.id).await.unwrap();
        subject.runtime.purge(task.id).await.unwrap();
    }
    subject.finish(place.task("").id).await;
}

/// A folder of code whose only file is for its owner alone.
fn closed_code(place: &Place, owner: u32) -> JobFiles {
    let code = open_folder(place, &format!("code-of-{owner}"));
    std::fs::write(code.join("file"), "of its owner\n").unwrap();
    std::fs::set_permissions(code.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
    chown(code.join("file"), Some(owner), Some(owner)).unwrap();
    JobFiles { code_dir: code.to_string_lossy().into_owned(), ..JobFiles::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_its_user_may_not_read_is_not_given_to_it() {
    let Some(place) = Place::new("docker: code_that_its_user_may_not_read") else { return };
    let mut subject = place.start();
    let of = |owner: u32, submitter: &str| TaskSpec {
        files: closed_code(&place, owner),
        container: of_user("1234:1234"),
        user: submitter.to_owned(),
        ..place.task("cat file")
    };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    for task in [of(0, "ada"), of(4321, "root"), of(nobody, "ada")] {
        let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
        let said = &refused.message;
        assert!(refused.user_error && said.contains("/file may be read neither"), "{said}");
    }
    // Its container's user, and whoever has submitted it.
    for task in [of(1234, "ada"), of(nobody, "nobody")] {
        assert!(subject.run(&task).await.is_success());
        assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), "of its owner\n");
        subject.runtime.remove(task.id).await.unwrap();
        subject.runtime.purge(task.id).await.unwrap();
    }
    subject.finish(place.task("").id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_not_written_to_what_is_mounted() {
    let Some(place) = Place::new("docker: code_is_not_written_to_what_is_mounted") else { return };
    let folder = open_folder(&place, "out");
    let script = format!("mkdir -p .{0}/sub", folder.display());
    let image = Image::of(&place, &script, &[&format!("WORKDIR {}", folder.display())]);
    let mut subject = place.start();
    let files = |code: bool| JobFiles {
        code_dir: if code { closed_code(&place, 0).code_dir } else { String::new() },
        ..output_in(&folder)
    };
    let of = |code| TaskSpec { image: image.name.clone(), files: files(code), ..place.task("touch made") };
    let refused = subject.runtime.prepare(&of(true), &[]).await.unwrap_err();
    assert!(refused.user_error && refused.message.contains("something else is mounted there"), "{refused}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    let task = of(false);
    assert!(subject.run(&task).await.is_success());
    assert!(folder.join("made").exists());
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_runs_for_too_long_is_ended_by_whoever_follows_it() {
    let Some(place) = Place::new("docker: a_task_that_runs_for_too_long") else { return };
    let policy = || Policy { max_run_time: RunTime::parse("2s"), ..place.config().policy };
    let mut first = start(&place, policy());
    let short = place.task("true");
    assert!(first.run(&short).await.is_success());
    first.runtime.remove(short.id).await.unwrap();
    first.runtime.purge(short.id).await.unwrap();
    let task = place.task("echo up; sleep 600");
    first.launch(&task).await;
    drop(first);
    // The limit is that of its start, whatever the next agent has.
    let mut second = place.start();
    assert!(matches!(second.runtime.adopt(&task).await.unwrap(), Adopted::Running { .. }));
    let exit = second.exited().await;
    assert_eq!(exit.class, ExitClass::User, "{exit:?}");
    assert!(exit.reason.contains("run for 2s") && exit.reason.contains("policy.max_run_time"), "{}", exit.reason);
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_the_system_and_of_wharf_are_refused_by_number() {
    let Some(place) = Place::new("docker: ports_of_the_system_and_of_wharf") else { return };
    let ports = PortRules { own: vec![7601], ..PortRules::default() };
    let mut subject = start(&place, Policy { ports, ..place.config().policy });
    let of = |port: u16| {
        let ports = vec![AssignedPorts { label: "http".into(), ports: vec![port] }];
        TaskSpec { ports, ..place.task("true") }
    };
    for port in [22, 7601] {
        let refused = subject.runtime.prepare(&of(port), &[]).await.unwrap_err();
        let said = &refused.message;
        assert!(refused.user_error && said.contains("policy.ports") && said.contains(&port.to_string()), "{said}");
        place.assert_nothing_left(of(port).id);
    }
    assert!(subject.run(&of(8022)).await.is_success());
    subject.finish(of(0).id).await;
}
