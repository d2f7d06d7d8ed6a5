//! What every runtime promises, as tests over the trait alone. A runtime's own tests call each of these with a
//! [`Site`] of their own; what only one runtime can do is tested there.

mod site;

pub use site::{PATIENCE, Site, Subject, output, sleepers, task, text, wait_until};

use super::{Adopted, Launch, Notices};
use crate::api::stream::{ExecInput, ExecOutput, ExecSession, ExecSpec};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::task::TaskSpec;
use std::time::Duration;

pub async fn a_task_waits_at_its_barrier_and_then_runs(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("printf 'out:%s:' \"$A\"; printf err >&2; exit 0");
    subject.runtime.stage(&task).await.unwrap();
    subject.runtime.prepare(&task, &[]).await.unwrap();
    assert_eq!(subject.runtime.list().await.unwrap(), [task.id]);
    subject.quiet();
    let env = [("A", "old"), ("A", "new")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    subject.runtime.launch(task.id, &Launch { env: env.into(), ..Launch::default() }).await.unwrap();
    subject.started().await;
    assert_eq!(subject.exited().await, Exit::success());
    let (stdout, stderr) = output(&subject.runtime.log_dir(task.id));
    assert_eq!((text(&stdout).as_str(), text(&stderr).as_str()), ("out:new:", "err"));
    subject.finish(task.id).await;
}

pub async fn operations_may_be_repeated(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done");
    let first = subject.runtime.prepare(&task, &[]).await.unwrap();
    assert_eq!(subject.runtime.prepare(&task, &[]).await, Ok::<Notices, _>(first));
    let other = TaskSpec { command: "other".into(), ..task.clone() };
    assert!(subject.runtime.prepare(&other, &[]).await.is_err(), "one id, one specification");
    for _ in 0..2 {
        subject.runtime.launch(task.id, &Launch::default()).await.unwrap();
    }
    subject.started().await;
    subject.wait_for_output(task.id, "up").await;
    for _ in 0..2 {
        subject.runtime.stop(task.id, PATIENCE).await.unwrap();
    }
    let exit = subject.exited().await;
    assert_eq!((exit.class, exit.code), (ExitClass::Stopped, Some(4)));
    subject.runtime.stop(task.id, PATIENCE).await.unwrap();
    subject.runtime.launch(task.id, &Launch::default()).await.unwrap();
    for _ in 0..2 {
        subject.runtime.remove(task.id).await.unwrap();
    }
    subject.finish(task.id).await;
}

pub async fn unknown_tasks_are_gone(site: &dyn Site) {
    let subject = site.start();
    let task = site.task("true");
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    subject.runtime.remove(task.id).await.unwrap();
    subject.runtime.clear_work(task.id).await.unwrap();
    subject.runtime.purge(task.id).await.unwrap();
    assert_eq!(subject.runtime.adopt(&task).await.unwrap(), Adopted::Gone);
    let refused = subject.runtime.launch(task.id, &Launch::default()).await.unwrap_err();
    assert!(!refused.user_error && refused.task == task.id);
    assert_eq!(subject.runtime.list().await.unwrap(), []);
    subject.finish(task.id).await;
}

pub async fn a_stop_at_the_barrier_ends_at_once(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("echo ran");
    subject.runtime.prepare(&task, &[]).await.unwrap();
    subject.runtime.stop(task.id, Duration::from_secs(600)).await.unwrap();
    let exit = subject.exited().await;
    assert_eq!((exit.class, exit.code), (ExitClass::Stopped, None));
    assert!(output(&subject.runtime.log_dir(task.id)).0.is_empty());
    subject.finish(task.id).await;
}

pub async fn grace_ends_with_sigkill(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("trap '' TERM; echo up; while :; do sleep 0.05; done");
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "up").await;
    subject.runtime.stop(task.id, Duration::from_millis(300)).await.unwrap();
    let exit = subject.exited().await;
    assert_eq!((exit.class, exit.signal), (ExitClass::Stopped, Some(9)));
    subject.finish(task.id).await;
}

pub async fn failures_are_the_commands(site: &dyn Site) {
    let mut subject = site.start();
    let exit = subject.run(&site.task("exit 3")).await;
    assert_eq!(
        (exit.class, exit.code, exit.reason.as_str()),
        (ExitClass::User, Some(3), "the command ended with status 3")
    );
    subject.runtime.remove(site.task("").id).await.unwrap();
    let exit = subject.run(&site.task("kill -SEGV $$")).await;
    assert_eq!((exit.class, exit.code, exit.signal), (ExitClass::User, None, Some(11)));
    subject.finish(site.task("").id).await;
}

pub async fn removing_ends_everything_and_keeps_the_log(site: &dyn Site) {
    let mut subject = site.start();
    let marker = format!("{}", 100_000 + std::process::id());
    let command =
        format!("setsid sleep {marker} & setsid nohup sleep {marker} >/dev/null 2>&1 & echo up; sleep {marker}");
    let task = site.task(&command);
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "up").await;
    subject.runtime.remove(task.id).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), "up\n");
    // The same task may come back to this node, and starts afresh.
    let again = TaskSpec { command: "echo again".into(), ..task.clone() };
    assert!(subject.run(&again).await.is_success());
    assert!(subject.runtime.clear_work(task.id).await.is_err(), "it has not been removed");
    subject.runtime.remove(task.id).await.unwrap();
    subject.runtime.clear_work(task.id).await.unwrap();
    assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), "again\n");
    subject.runtime.purge(task.id).await.unwrap();
    assert!(!subject.runtime.log_dir(task.id).exists());
    assert_eq!(subject.runtime.list().await.unwrap(), []);
    subject.finish(task.id).await;
}

pub async fn output_is_exact_to_the_byte(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("i=0; while [ $i -lt 40 ]; do seq 1 5000; i=$((i+1)); done; printf '\\000\\377end'");
    assert!(subject.run(&task).await.is_success());
    let lines: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    let expected = [lines.repeat(40).as_bytes(), b"\0\xffend"].concat();
    let (found, _) = output(&subject.runtime.log_dir(task.id));
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "same length, other bytes");
    subject.finish(task.id).await;
}

pub async fn a_new_runtime_adopts_waiting_and_running_tasks(site: &dyn Site) {
    let task = site.task("echo up; while [ ! -e go ]; do sleep 0.05; done; exit 5");
    let first = site.start();
    first.runtime.prepare(&task, &[]).await.unwrap();
    drop(first);
    let mut second = site.start();
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Waiting);
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Waiting);
    second.runtime.launch(task.id, &Launch::default()).await.unwrap();
    second.started().await;
    second.wait_for_output(task.id, "up").await;
    drop(second);
    let mut third = site.start();
    let adopted = third.runtime.adopt(&task).await.unwrap();
    assert!(matches!(adopted, Adopted::Running { started_at } if started_at.0 > 0), "{adopted:?}");
    third.quiet();
    let stopping = third.runtime.exec(task.id, command(&["touch", "go"])).await.unwrap();
    assert_eq!(finished(stopping).await.2, 0);
    let exit = third.exited().await;
    assert_eq!((exit.class, exit.code), (ExitClass::User, Some(5)));
    drop(third);
    let fourth = site.start();
    match fourth.runtime.adopt(&task).await.unwrap() {
        Adopted::Ended { started_at: Some(started_at), at, exit } => {
            assert!(at > started_at && exit.code == Some(5), "{exit:?}");
        }
        other => panic!("{other:?}"),
    }
    fourth.finish(task.id).await;
}

pub async fn a_task_may_end_while_nobody_looks(site: &dyn Site) {
    let task = site.task("sleep 0.2; echo done");
    let mut first = site.start();
    first.launch(&task).await;
    drop(first);
    let second = site.start();
    let dir = second.runtime.log_dir(task.id);
    wait_until("its output", || output(&dir).0 == b"done\n").await;
    let mut second = second;
    match second.runtime.adopt(&task).await.unwrap() {
        Adopted::Ended { exit, .. } => assert!(exit.is_success()),
        Adopted::Running { .. } => assert!(second.exited().await.is_success()),
        other => panic!("{other:?}"),
    }
    second.finish(task.id).await;
}

pub async fn what_was_not_adopted_can_be_removed(site: &dyn Site) {
    let marker = format!("{}", 200_000 + std::process::id());
    let task = site.task(&format!("echo up; setsid sleep {marker} & sleep {marker}"));
    let mut first = site.start();
    first.launch(&task).await;
    first.wait_for_output(task.id, "up").await;
    drop(first);
    let mut second = site.start();
    assert_eq!(second.runtime.list().await.unwrap(), [task.id]);
    second.runtime.remove(task.id).await.unwrap();
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    // It was told what became of the task, or never followed it.
    second.events.try_recv().ok();
    second.finish(task.id).await;
}

pub async fn a_lease_that_is_not_renewed_ends_the_task(site: &dyn Site) {
    let mut subject = site.start();
    let task = TaskSpec { lease_s: Some(1), ..site.task("sleep 600") };
    subject.launch(&task).await;
    let exit = subject.exited().await;
    assert!(exit.class == ExitClass::Platform && exit.reason.contains("lease"), "{exit:?}");
    subject.finish(task.id).await;
}

pub async fn commands_run_beside_a_task(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("echo up; sleep 600");
    subject.runtime.prepare(&task, &[]).await.unwrap();
    assert!(subject.runtime.exec(task.id, command(&["true"])).await.is_err(), "nothing runs yet");
    let env = vec![("COLOR".to_owned(), "blue".to_owned())];
    subject.runtime.launch(task.id, &Launch { env, ..Launch::default() }).await.unwrap();
    subject.started().await;
    let script = "read line; echo \"$COLOR $line\"; echo oops >&2; exit 7";
    let session = subject.runtime.exec(task.id, command(&["/bin/sh", "-c", script])).await.unwrap();
    session.input.send(ExecInput::Stdin(b"sky\n".to_vec())).await.unwrap();
    assert_eq!(finished(session).await, ("blue sky\n".into(), "oops\n".into(), 7));
    let session = subject.runtime.exec(task.id, command(&["cat"])).await.unwrap();
    assert_eq!(finished(session).await.2, 0, "closing the input is its end");
    let killed = subject.runtime.exec(task.id, command(&["/bin/sh", "-c", "kill -9 $$"])).await.unwrap();
    assert_eq!(finished(killed).await.2, 137);
    let unknown = subject.runtime.exec(task.id, command(&["/no/such/program"])).await.unwrap_err();
    assert!(unknown.user_error && unknown.message.contains("/no/such/program"), "{unknown}");
    let terminal = ExecSpec {
        // A terminal of Docker before API 1.42 gets its size a moment after its command has started.
        argv: ["/bin/sh", "-c", "until [ \"$(stty size)\" = '40 132' ]; do sleep 0.05; done 2>/dev/null; stty size"]
            .map(str::to_owned)
            .into(),
        tty: Some((40, 132)),
        ..ExecSpec::default()
    };
    let session = subject.runtime.exec(task.id, terminal).await.unwrap();
    assert_eq!(finished(session).await, ("40 132\r\n".into(), String::new(), 0));
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}

pub async fn a_dropped_session_kills_its_command(site: &dyn Site) {
    let mut subject = site.start();
    let task = site.task("sleep 600");
    subject.launch(&task).await;
    let marker = format!("{}", 300_000 + std::process::id());
    let session = subject.runtime.exec(task.id, command(&["sleep", &marker])).await.unwrap();
    wait_until("the command", || sleepers(&marker).len() == 1).await;
    drop(session);
    wait_until("its end", || sleepers(&marker).is_empty()).await;
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}

fn command(argv: &[&str]) -> ExecSpec {
    ExecSpec { argv: argv.iter().map(|&argument| argument.to_owned()).collect(), tty: None, ..ExecSpec::default() }
}

/// Closes the input and reads to the end: output, errors, code.
async fn finished(session: ExecSession) -> (String, String, i32) {
    let ExecSession { input, mut output } = session;
    drop(input);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let message = tokio::time::timeout(PATIENCE, output.recv()).await.expect("the command goes on");
        match message.expect("the code comes last").unwrap() {
            ExecOutput::Stdout(bytes) => stdout.extend(bytes),
            ExecOutput::Stderr(bytes) => stderr.extend(bytes),
            ExecOutput::Exited(code) => return (text(&stdout), text(&stderr), code),
        }
    }
}
