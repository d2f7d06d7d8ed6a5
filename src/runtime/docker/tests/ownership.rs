//! Whose container is it: labels, name and mount together say that it is ours, and nothing less does.

use super::*;

/// `docker run -d` of a sleeper with these arguments before the image.
fn run(place: &Place, arguments: &[&str]) -> String {
    let all =
        [&["run", "-d", "--network", "host"], arguments, &["wharf-test/busybox:1", "/bin/sleep", "600"]].concat();
    place.dockerd.docker(&all).trim().to_owned()
}

fn label(name: &str, value: &str) -> String {
    format!("--label=wharf.{name}={value}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_like_ours_is_left_alone() {
    let Some(place) = Place::new("docker: what_only_looks_like_ours_is_left_alone") else { return };
    let subject = place.start();
    let task = place.task("true");
    let (id, node, nonce) = (task.id.to_string(), place.node_uid.as_str(), "0123456789abcdef0123456789abcdef");
    let (of_task, of_node, of_nonce) = (label("task", &id), label("node_uid", node), label("nonce", nonce));
    let mount = format!("--volume={}:/.wharf:ro", place.task_dir(task.id).join("mount").display());
    std::fs::create_dir_all(place.task_dir(task.id).join("mount")).unwrap();
    let other_node = label("node_uid", "another");
    let name = format!("--name=wharf-{id}-01234567");
    let other_nonce = label("nonce", "ffffffffffffffffffffffffffffffff");
    let foreign = [
        // As `docker commit` and `docker run` make them.
        run(&place, &[&of_task, &of_node, &of_nonce]),
        run(&place, &[&of_task, &of_node, &of_nonce, &mount]),
        run(&place, &[&of_task, &of_node, &other_nonce, &mount, &name]),
        run(&place, &[&of_task, &other_node, &of_nonce, &mount]),
    ];
    std::fs::remove_dir_all(place.task_dir(task.id)).unwrap();
    assert_eq!(subject.runtime.list().await.unwrap(), []);
    subject.runtime.remove(task.id).await.unwrap();
    for container in &foreign {
        assert_eq!(place.dockerd.docker(&["inspect", "--format", "{{.State.Running}}", container]).trim(), "true");
        place.dockerd.docker(&["rm", "-f", container]);
    }
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_without_a_record_is_listed_and_removed() {
    let Some(place) = Place::new("docker: ours_without_a_record_is_listed_and_removed") else { return };
    let mut first = place.start();
    let task = place.task("sleep 600");
    first.launch(&task).await;
    drop(first);
    // As after the loss of a disk.
    std::fs::rename(place.task_dir(task.id), place.dir.path().join("lost")).unwrap();
    let second = place.start();
    assert_eq!(second.runtime.list().await.unwrap(), [task.id]);
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Gone);
    second.runtime.remove(task.id).await.unwrap();
    assert_eq!(place.containers(), [""; 0]);
    assert_eq!(second.runtime.list().await.unwrap(), []);
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_renamed_is_still_ours() {
    let Some(place) = Place::new("docker: one_that_was_renamed_is_still_ours") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    let other = format!("renamed-{}", place.node_uid);
    place.dockerd.docker(&["rename", &place.container(task.id).unwrap(), &other]);
    subject.runtime.remove(task.id).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    place.assert_nothing_left(task.id);
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_was_never_taken_note_of_is_ended() {
    let Some(place) = Place::new("docker: a_container_that_was_never_taken_note_of") else { return };
    let mut first = place.start();
    let task = place.task("sleep 600");
    first.launch(&task).await;
    let (dir, shim) = (place.task_dir(task.id), place.shim(task.id));
    drop(first);
    // As if the agent had ended between the container's start and the note of it.
    let mut record = place.record(task.id);
    record.facts.started = None;
    for name in ["task.json", "task.copy.json"] {
        std::fs::write(dir.join(name), serde_json::to_vec(&record).unwrap()).unwrap();
    }
    for name in ["shim.json", "shim.copy.json"] {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    let second = place.start();
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Gone);
    assert!(!shim.is_alive().unwrap());
    second.runtime.remove(task.id).await.unwrap();
    place.assert_nothing_left(task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_runtimes_task_is_not_taken_for_gone() {
    let Some(place) = Place::new("docker: another_runtimes_task_is_not_taken_for_gone") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    let state = place.dir.path().join("state");
    assert_eq!(crate::runtime::unfinished(&state).as_deref(), Some("docker"));
    let (sender, _events) = mpsc::channel(16);
    let config = crate::runtime::process::ProcessConfig::new(&state, place.dir.path().join("run"), "wharf-test-none");
    let processes = crate::runtime::process::ProcessRuntime::new(config, sender).unwrap();
    let other = crate::runtime::Runtime::adopt(&processes, &task).await.unwrap_err();
    assert!(other.message.contains("docker runtime"), "{other}");
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    assert_eq!(crate::runtime::unfinished(&state), None);
    subject.finish(task.id).await;
}
