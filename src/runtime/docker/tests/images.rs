//! What an image says holds: its user, folder and variables. What it says and must not hold does not: its entrypoint
//! and health check.

use super::fixture::jobs_in;
use super::*;
use crate::domain::container::{ContainerSpec, PullPolicy, Ulimit};

fn of_user_image(place: &Place, command: &str) -> TaskSpec {
    TaskSpec { image: "wharf-test/user:1".into(), ..place.task(command) }
}

fn printed(subject: &contract::Subject, id: TaskId) -> String {
    text(&output(&subject.runtime.log_dir(id)).0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_folder_and_variables_are_the_images() {
    let Some(place) = Place::new("docker: user_folder_and_variables_are_the_images") else { return };
    let mut subject = place.start();
    let task = of_user_image(&place, "id -un; pwd; echo $HOME $A $B $PAI_WORK_DIR; touch file && ls; echo $$ $PPID");
    let notices = subject.runtime.prepare(&task, &[]).await.unwrap();
    assert!(notices.0.iter().any(|notice| notice.contains("/bin/sh") && notice.contains("wharf-test/user:1")));
    let env = vec![("B".to_owned(), "job".to_owned())];
    subject.runtime.launch(task.id, &Launch { env, ..Launch::default() }).await.unwrap();
    subject.started().await;
    let exit = subject.exited().await;
    assert!(exit.is_success(), "{exit:?}");
    let found = printed(&subject, task.id);
    let (said, pids) = found.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(said, "ada\n/work\n/home/ada image job /work\nfile");
    assert!(pids.ends_with(" 1"), "the shim is its parent and process 1: {pids}");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_go_with_the_container_and_health_checks_are_off() {
    let Some(place) = Place::new("docker: volumes_go_with_the_container") else { return };
    let mut subject = place.start();
    let task = of_user_image(&place, "sleep 600");
    subject.launch(&task).await;
    let name = place.container(task.id).unwrap();
    let show = |what: &str| place.dockerd.docker(&["inspect", "--format", what, &name]);
    let volume = show("{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}}{{end}}{{end}}");
    assert_eq!(volume.trim().len(), 64, "an anonymous volume: '{volume}'");
    assert_eq!(show("{{.State.Health}}").trim(), "<nil>");
    let readable = show("{{json .Config}}");
    assert!(!readable.contains("sleep 600"), "what the job runs is not for everybody who may inspect");
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    assert!(!place.dockerd.docker(&["volume", "ls", "-q"]).contains(volume.trim()));
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_users_and_read_only_roots_work() {
    let Some(place) = Place::new("docker: other_users_and_read_only_roots_work") else { return };
    let mut subject = place.start();
    let container =
        ContainerSpec { user: Some("4242:4343".into()), read_only_root: true, ..ContainerSpec::default() };
    let script =
        "id -u; id -g; touch /etc/x || echo refused; touch /tmp/x && echo kept; cat /proc/self/oom_score_adj";
    let task = TaskSpec { container, ..place.task(script) };
    let exit = subject.run(&task).await;
    assert!(exit.is_success(), "{exit:?}");
    assert_eq!(printed(&subject, task.id), "4242\n4343\nrefused\nkept\n500\n");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_a_shell_is_refused_by_name() {
    let Some(place) = Place::new("docker: an_image_without_a_shell_is_refused") else { return };
    let subject = place.start();
    let task = TaskSpec { image: "wharf-test/noshell:1".into(), ..place.task("true") };
    let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
    assert!(refused.user_error, "{refused}");
    assert!(
        refused.message.contains("neither /bin/bash nor /bin/sh is in image 'wharf-test/noshell:1'"),
        "{refused}"
    );
    place.assert_nothing_left(task.id);
    assert!(!place.task_dir(task.id).exists());
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_not_there_is_told_at_once() {
    let Some(place) = Place::new("docker: an_image_that_is_not_there_is_told") else { return };
    let subject = place.start();
    let container = ContainerSpec { pull: PullPolicy::Never, ..ContainerSpec::default() };
    let task = TaskSpec { image: "wharf-test/absent:1".into(), container, ..place.task("true") };
    let refused = subject.runtime.stage(&task).await.unwrap_err();
    assert!(refused.message.contains("wharf-test/absent:1"), "{refused}");
    let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
    assert!(!refused.user_error && refused.message.contains("wharf-test/absent:1"), "{refused}");
    let nothing = subject.runtime.stage(&TaskSpec { image: String::new(), ..task.clone() }).await.unwrap_err();
    assert!(nothing.user_error && nothing.message.starts_with("image: "), "{nothing}");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_the_node_has_no_more_is_not_left_out() {
    let Some(place) = Place::new("docker: a_gpu_that_the_node_has_no_more") else { return };
    let subject = place.start();
    let task = TaskSpec { gpus: vec![crate::domain::ids::GpuUuid("GPU-1".into())], ..place.task("true") };
    let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
    assert!(!refused.user_error && refused.message.contains("only 0"), "{refused}");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_the_commands_and_its_log_is_whole() {
    let Some(place) = Place::new("docker: limits_are_the_commands") else { return };
    let mut subject = place.start();
    let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    let ulimits = vec![limit("nofile", 64, 64), limit("fsize", 1 << 20, 1 << 20)];
    let container = ContainerSpec { ulimits, ..ContainerSpec::default() };
    let script = "ulimit -n; ulimit -Hf; (head -c 3000000 /dev/zero >/tmp/big); wc -c </tmp/big; \
         yes 123456789 | head -c 3000000; echo; echo end";
    let task = TaskSpec { container, ..place.task(script) };
    let exit = subject.run(&task).await;
    assert!(exit.is_success(), "{exit:?}");
    let found = printed(&subject, task.id);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!((lines[0], lines[2]), ("64", "1048576"), "{:?}", &lines[..4]);
    assert_ne!(lines[1], "unlimited");
    assert_eq!(lines.iter().filter(|line| **line == "123456789").count(), 300_000);
    assert_eq!(lines.last(), Some(&"end"));
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_folders_of_the_operator_are_mounted_and_written() {
    let Some(place) = Place::new("docker: only_folders_of_the_operator") else { return };
    let shared = tempfile::tempdir().unwrap();
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig { policy: jobs_in(shared.path()), ..place.config() };
    let mut subject = contract::Subject { runtime: Arc::new(DockerRuntime::new(config, sender).unwrap()), events };
    let path = |name: &str| shared.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("code")).unwrap();
    std::fs::write(path("code/run.sh"), "echo from the code >$1/file").unwrap();
    let mut task = place.task(&format!("cd /; cat /proc/mounts >/dev/null; sh run.sh {}", path("out")));
    task.files.code_dir = path("code");
    task.files.output_dir = path("out");
    let exit = subject.run(&task).await;
    assert!(exit.is_success(), "{exit:?}");
    assert_eq!(std::fs::read_to_string(path("out/file")).unwrap(), "from the code\n");
    subject.runtime.remove(task.id).await.unwrap();
    let mut other = place.task("true");
    other.files.output_dir = "/var/spool/cron/crontabs".to_owned();
    let refused = subject.runtime.prepare(&other, &[]).await.unwrap_err();
    assert!(refused.user_error && refused.message.contains("policy.mounts"), "{refused}");
    place.assert_nothing_left(other.id);
    subject.finish(other.id).await;
}
