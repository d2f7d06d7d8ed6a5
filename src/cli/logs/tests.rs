//! Against a controller that answers from a script.

use super::read::print_sources;
use super::*;
use crate::api::stream::{LogBatch, LogContent, LogRecord, LogStream};
use crate::cli::samples::{self, Scripted};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn record(task: TaskId, sequence: u64, text: &str) -> LogRecord {
    LogRecord {
        sequence,
        time: Timestamp(0),
        content: LogContent::Output { stream: LogStream::Stdout, bytes: text.as_bytes().to_vec() },
        cursor: format!("{task}:{sequence}.0"),
    }
}

fn sources(job: &JobView) -> Vec<select::Source> {
    select::select(job, &TaskArgs { role: None, index: None }).unwrap()
}

fn follow() -> View {
    View { follow: true, ..View::default() }
}

#[tokio::test]
async fn a_printer_that_fails_ends_streams_that_would_go_on_for_ever() {
    let controller = Scripted::new();
    let job = samples::with_tasks(samples::job(7), 2);
    for source in sources(&job) {
        // Each says one thing, and stays open.
        controller.log(
            source.id,
            vec![Ok(LogBatch { records: vec![record(source.id, 1, "x\n")], exit: None })],
            true,
        );
    }
    let context = Context::for_tests();
    let mut sink = |_: LogStream, _: &[u8]| Err(Failure::Output(io::ErrorKind::BrokenPipe.into()));
    let printing = print_sources(&context, controller.shared(), sources(&job), follow(), &mut sink);
    let result = tokio::time::timeout(LIMIT, printing).await.expect("it ends");
    assert!(matches!(result, Err(Failure::Output(_))), "{result:?}");
}

#[tokio::test]
async fn one_task_that_cannot_be_read_does_not_silence_the_others() {
    let controller = Scripted::new();
    let job = samples::with_tasks(samples::job(7), 3);
    for source in sources(&job) {
        let last = LogBatch {
            records: vec![record(source.id, 1, &format!("from {}\n", source.index))],
            exit: Some(crate::domain::exit::Exit::success()),
        };
        let answer = if source.index == 1 { Err(Error::internal("the log is damaged")) } else { Ok(last) };
        controller.log(source.id, vec![answer], false);
    }
    let context = Context::for_tests();
    let mut printed = Vec::new();
    let mut sink = |_: LogStream, bytes: &[u8]| {
        printed.extend_from_slice(bytes);
        Ok(())
    };
    let printing = print_sources(&context, controller.shared(), sources(&job), follow(), &mut sink);
    let incomplete = tokio::time::timeout(LIMIT, printing).await.expect("it ends").unwrap().expect("one failed");
    assert_eq!(incomplete.kind, ErrorKind::Internal);
    assert!(incomplete.message.contains("1 of 3 tasks") && incomplete.message.contains("worker[1]"), "{incomplete}");
    let printed = String::from_utf8(printed).unwrap();
    assert!(printed.contains("from 0") && printed.contains("from 2"), "{printed}");
}

#[tokio::test]
async fn a_cut_stream_goes_on_after_the_last_record() {
    let controller = Scripted::new();
    let job = samples::with_tasks(samples::job(7), 1);
    let id = sources(&job)[0].id;
    let batch = |sequence, exit| LogBatch { records: vec![record(id, sequence, "x\n")], exit };
    controller.log(id, vec![Ok(batch(1, None)), Err(Error::unavailable("going down"))], false);
    controller.log(id, vec![Err(Error::unavailable("still down"))], false);
    controller.log(id, vec![Ok(batch(2, Some(crate::domain::exit::Exit::success())))], false);
    let context = Context::for_tests();
    let mut bytes = 0;
    let mut sink = |_: LogStream, piece: &[u8]| {
        bytes += piece.len();
        Ok(())
    };
    let printing = print_sources(&context, controller.shared(), sources(&job), follow(), &mut sink);
    assert_eq!(tokio::time::timeout(LIMIT, printing).await.expect("it ends").unwrap(), None);
    assert_eq!(bytes, 4);
    let cursors: Vec<Option<String>> = controller.queries().into_iter().map(|query| query.cursor).collect();
    let after_first = Some(format!("{id}:1.0"));
    assert_eq!(cursors, [None, after_first.clone(), after_first]);
}

#[tokio::test]
async fn runs_that_came_and_went_meanwhile_are_read_in_order() {
    let controller = Scripted::new();
    let context = Context::for_tests();
    let mut job = samples::with_runs(samples::job(5), &[5, 8, 9]);
    job.state = "FAILED".to_owned();
    controller.job(job);
    let mut read = Vec::new();
    let mut last = 5;
    while let Next::Run(run) = next_run(&controller, &context, "5", last).await.unwrap() {
        assert_eq!(run.view.tasks.as_ref().unwrap()[0].id, format!("5.{}.0.0", run.shown));
        last = run.shown;
        read.push(last);
    }
    assert_eq!(read, [8, 9]);
}

#[tokio::test]
async fn a_job_that_may_run_again_is_waited_for() {
    let controller = Scripted::new();
    let context = Context::for_tests();
    controller.job(samples::with_runs(samples::job(5), &[5]));
    assert!(matches!(next_run(&controller, &context, "5", 5).await, Ok(Next::Later)));
    assert!(
        matches!(next_run(&controller, &context, "6", 0).await, Err((0, error)) if error.kind == ErrorKind::NotFound)
    );
}
