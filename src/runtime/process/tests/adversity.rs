//! What a hostile task, a full table of descriptors, a cleaner of temporary files or a killed shim may do.

use super::*;
use crate::api::stream::ExecOutput;
use crate::domain::level::Level;
use crate::runtime::RuntimeEventKind;

fn marker(number: u32) -> String {
    format!("{}", number + std::process::id())
}

fn exec(script: &str) -> ExecSpec {
    ExecSpec { argv: ["/bin/sh", "-c", script].map(str::to_owned).into(), tty: None, ..ExecSpec::default() }
}

/// Bytes of standard output, and the code.
async fn outcome(mut session: ExecSession) -> (Vec<u8>, Option<i32>) {
    let (mut bytes, mut code) = (Vec::new(), None);
    while let Some(Ok(output)) = tokio::time::timeout(contract::PATIENCE, session.output.recv()).await.unwrap() {
        match output {
            ExecOutput::Stdout(more) => bytes.extend(more),
            ExecOutput::Exited(found) => code = Some(found),
            ExecOutput::Stderr(_) => {}
        }
    }
    (bytes, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shim_is_stopped_over_its_head() {
    for without_groups in [false, true] {
        let mut place = Place::new();
        place.without_groups = without_groups;
        let mut subject = place.start();
        let marker = marker(700_000 + u32::from(without_groups) * 100_000_000);
        let task = task(&format!("kill -STOP $PPID; setsid sleep {marker} & sleep {marker}; true"));
        subject.runtime.prepare(&task, &[]).await.unwrap();
        subject.runtime.launch(task.id, &Launch::default()).await.unwrap();
        wait_until("both", || sleepers(&marker).len() == 2).await;
        subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
        // Whether it told of the start before it was frozen is chance.
        let exit = loop {
            if let RuntimeEventKind::Exited { exit, .. } = subject.next().await.kind {
                break exit;
            }
        };
        assert_eq!(exit.class, ExitClass::Stopped);
        assert_eq!(sleepers(&marker), Vec::<String>::new());
        subject.finish(task.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_record_kills_nothing() {
    let place = Place::new();
    let marker = marker(710_000);
    let task = task(&format!("sleep {marker}"));
    let mut first = place.start();
    first.launch(&task).await;
    // The shell begins before what it runs.
    wait_until("the command", || sleepers(&marker).len() == 1).await;
    drop(first);
    let mut second = place.start();
    for name in ["shim.json", "task.json", "started.json"] {
        let (file, aside) = (place.task_dir().join(name), place.task_dir().join("aside"));
        std::fs::rename(&file, &aside).unwrap();
        // ELOOP stands for EMFILE and EIO.
        std::os::unix::fs::symlink(name, &file).unwrap();
        let adopted = second.runtime.adopt(&task).await;
        assert!(adopted.is_err() && sleepers(&marker).len() == 1, "{name}: {adopted:?}");
        std::fs::remove_file(&file).unwrap();
        std::fs::rename(&aside, &file).unwrap();
    }
    assert!(matches!(second.runtime.adopt(&task).await, Ok(Adopted::Running { .. })));
    second.runtime.remove(task.id).await.unwrap();
    assert_eq!(second.exited().await.class, ExitClass::Stopped);
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_the_next_level_is_followed_and_one_beyond_is_left_alone() {
    let place = Place::new();
    let marker = marker(711_000);
    let task = task(&format!("sleep {marker}"));
    let mut first = place.start();
    first.launch(&task).await;
    wait_until("the command", || sleepers(&marker).len() == 1).await;
    drop(first);
    let file = place.task_dir().join("task.json");
    let written = std::fs::read_to_string(&file).unwrap();
    let of = |level: u32| {
        let mut record: serde_json::Value = serde_json::from_str(&written).unwrap();
        record["level"] = level.into();
        record["of_the_next_level"] = serde_json::json!({ "a": 1 });
        std::fs::write(&file, record.to_string()).unwrap();
    };
    let newest = Level::newest().0;
    of(newest + 1);
    let mut second = place.start();
    let error = second.runtime.adopt(&task).await.unwrap_err();
    assert!(error.message.contains("written by a newer wharf"), "{error:?}");
    assert_eq!(sleepers(&marker).len(), 1);
    of(newest);
    assert!(matches!(second.runtime.adopt(&task).await, Ok(Adopted::Running { .. })));
    second.runtime.remove(task.id).await.unwrap();
    assert_eq!(second.exited().await.class, ExitClass::Stopped);
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_cannot_be_read_yet_is_asked_for_again() {
    let place = Place::new();
    let task = task("exit 7");
    let mut first = place.start();
    first.run(&task).await;
    let shim = place.shim();
    wait_until("its end", || !shim.is_alive().unwrap()).await;
    drop(first);
    let (file, aside) = (place.task_dir().join("exit"), place.task_dir().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink("exit", &file).unwrap();
    let second = place.start();
    assert!(second.runtime.adopt(&task).await.is_err());
    std::fs::rename(&aside, &file).unwrap();
    let adopted = second.runtime.adopt(&task).await.unwrap();
    assert!(matches!(&adopted, Adopted::Ended { exit, .. } if exit.code == Some(7)), "{adopted:?}");
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_run_directory_is_made_again() {
    let place = Place::new();
    let marker = marker(720_000);
    let task = task(&format!("sleep {marker}; true"));
    let mut first = place.start();
    first.launch(&task).await;
    drop(first);
    std::fs::remove_dir_all(place.dir.path().join("run")).unwrap();
    // Without this the shim must call back before anything is known of it.
    std::fs::remove_file(place.task_dir().join("started.json")).unwrap();
    let mut second = place.start();
    std::fs::remove_dir_all(place.dir.path().join("run")).unwrap();
    assert_eq!(second.runtime.list().await.unwrap(), [task.id]);
    assert!(matches!(second.runtime.adopt(&task).await, Ok(Adopted::Running { .. })));
    second.runtime.stop(task.id, contract::PATIENCE).await.unwrap();
    let exit = second.exited().await;
    assert_eq!((exit.class, exit.signal), (ExitClass::Stopped, Some(15)), "its shim was told");
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_cannot_be_reached_is_followed_and_stopped() {
    let place = Place::new();
    let marker = marker(730_000);
    let task = task(&format!("sleep {marker}; true"));
    let mut first = place.start();
    first.launch(&task).await;
    drop(first);
    let mut second = place.start();
    let run = place.dir.path().join("run");
    std::fs::remove_dir_all(&run).unwrap();
    std::fs::write(&run, "no folder can be made here").unwrap();
    assert!(matches!(second.runtime.adopt(&task).await, Ok(Adopted::Running { .. })));
    second.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    assert_eq!(second.exited().await.class, ExitClass::Stopped);
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_groups_nothing_survives_its_shim() {
    let mut place = Place::new();
    place.without_groups = true;
    let mut subject = place.start();
    let marker = marker(740_000);
    let task = task(&format!("setsid sleep {marker} & sleep {marker}"));
    subject.launch(&task).await;
    let beside =
        subject.runtime.exec(task.id, exec(&format!("setsid sleep {marker} & sleep {marker}"))).await.unwrap();
    wait_until("all of them", || sleepers(&marker).len() == 4).await;
    place.shim().open().unwrap().unwrap().kill().unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Platform);
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    drop(beside);
    subject.runtime.remove(task.id).await.unwrap();
    // And while nobody looks, for whoever comes next.
    subject.launch(&task).await;
    wait_until("both", || sleepers(&marker).len() == 2).await;
    drop(subject);
    let shim = place.shim().open().unwrap().unwrap();
    shim.kill().unwrap();
    shim.ended().await.unwrap();
    let second = place.start();
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Gone);
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    second.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_segments_as_one_message_holds() {
    let place = Place::new();
    let root = place.dir.path();
    let start = |log_segments| {
        let config = ProcessConfig {
            log_segments,
            policy: everybody(),
            ..ProcessConfig::new(root.join("state"), root.join("run"), place.parent.clone())
        };
        let (sender, events) = mpsc::channel(16);
        ProcessRuntime::new(config, sender).map(|runtime| Subject { runtime: Arc::new(runtime), events })
    };
    assert!(start(65).unwrap_err().to_string().contains("2 to 64"));
    assert!(start(1).unwrap_err().to_string().contains("2 to 64"));
    let mut subject = start(64).unwrap();
    assert!(subject.run(&task("true")).await.is_success());
    subject.finish(task("").id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_goes_before_a_launch() {
    let place = Place::new();
    let mut subject = place.start();
    let task = task("echo ran");
    subject.runtime.prepare(&task, &[]).await.unwrap();
    let launch = Launch::default();
    let (stopped, launched) =
        tokio::join!(subject.runtime.stop(task.id, contract::PATIENCE), subject.runtime.launch(task.id, &launch));
    assert!(stopped.is_ok() && launched.is_ok());
    let event = subject.next().await;
    assert!(
        matches!(&event.kind, RuntimeEventKind::Exited { exit, .. } if exit.class == ExitClass::Stopped),
        "{event:?}"
    );
    assert_eq!(contract::output(&subject.runtime.log_dir(task.id)).0, b"");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_the_whole_output_of_a_command() {
    let place = Place::new();
    let mut subject = place.start();
    let task = task("sleep 600; true");
    subject.launch(&task).await;
    // More messages than the queue holds, so that the end of the output waits for its reader.
    let script = "for i in $(seq 30); do echo x; sleep 0.01; done; head -c 60000 /dev/zero;";
    let mut session = subject.runtime.exec(task.id, exec(script)).await.unwrap();
    let first = session.output.recv().await.unwrap().unwrap();
    assert_eq!(first, ExecOutput::Stdout(b"x\n".to_vec()));
    // Longer than what is granted to those who hold the output.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (rest, code) = outcome(session).await;
    assert_eq!((rest.len(), code), (60_058, Some(0)));
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_beside_a_task_are_like_its_own_and_counted() {
    let mut place = Place::new();
    place.open_files = Some(OpenFiles { soft: 777, hard: 888 });
    let mut subject = place.start();
    let task = task("umask; ulimit -n; ulimit -Hn; echo up; sleep 600");
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "up").await;
    let (found, _) = contract::output(&subject.runtime.log_dir(task.id));
    assert_eq!(contract::text(&found), "0022\n777\n888\nup\n");
    let beside = subject.runtime.exec(task.id, exec("umask; ulimit -n; ulimit -Hn")).await.unwrap();
    assert_eq!(outcome(beside).await, (b"0022\n777\n888\n".to_vec(), Some(0)));
    let mut sessions = Vec::new();
    for _ in 0..crate::runtime::shimmed::MAX_EXEC_SESSIONS {
        sessions.push(subject.runtime.exec(task.id, exec("sleep 600")).await.unwrap());
    }
    let refused = subject.runtime.exec(task.id, exec("true")).await.unwrap_err();
    assert!(refused.message.contains("16 commands"), "{refused}");
    drop(sessions);
    let end = std::time::Instant::now() + contract::PATIENCE;
    while subject.runtime.exec(task.id, exec("true")).await.is_err() {
        assert!(std::time::Instant::now() < end, "the places are not given back");
        tokio::task::yield_now().await;
    }
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}
