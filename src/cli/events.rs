//! `wharf events`.

use super::args::EventsArgs;
use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::output::reader_gone;
use super::patience::Silence;
use super::signals::interrupted;
use crate::api::ControllerApi;
use crate::api::controller::EventFilter;
use crate::domain::command::Error;
use crate::domain::event::Event;
use std::io;
use std::time::Duration;

/// Before a stream that was cut is opened again.
const RECONNECT: Duration = Duration::from_millis(300);

pub async fn events(context: &Context, args: EventsArgs) -> Result<u8, Failure> {
    let filter = EventFilter { after: args.after, follow: args.follow, job: args.job, node: args.node };
    let follow = filter.follow;
    tokio::select! {
        result = print(context, filter) => result,
        failure = interrupted() => Err(failure),
        () = reader_gone(), if follow => Err(Failure::Output(io::ErrorKind::BrokenPipe.into())),
    }
}

/// Prints events; with `follow` over restarts of the controller too, without loss or repeat.
async fn print(context: &Context, mut filter: EventFilter) -> Result<u8, Failure> {
    let controller = context.controller()?;
    let (mut silence, mut connected) = (Silence::new(context), false);
    loop {
        match print_stream(context, &*controller, &mut filter, &mut silence, &mut connected).await {
            Ok(()) if !filter.follow => return Ok(OK),
            Ok(()) => silence.bear(Error::unavailable("the stream of events was cut off"))?,
            // A controller that was there once comes back; one that never was is a mistake in its address.
            Err(Failure::Error(error)) if filter.follow && connected => silence.bear(error)?,
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Prints one stream to its end and moves the filter along, so that the next one goes on from there.
async fn print_stream(
    context: &Context,
    controller: &dyn ControllerApi,
    filter: &mut EventFilter,
    silence: &mut Silence<'_>,
    connected: &mut bool,
) -> Result<(), Failure> {
    let mut stream = controller.watch(&context.who, filter.clone()).await?;
    *connected = true;
    silence.opened();
    while let Some(event) = stream.recv().await {
        let event = event?;
        silence.heard();
        filter.after = Some(event.sequence);
        show(context, &event)?;
    }
    Ok(())
}

fn show(context: &Context, event: &Event) -> Result<(), Failure> {
    if context.json {
        return context.print_json(event);
    }
    let job = event.job.map_or_else(String::new, |job| format!(" job {job}"));
    let task = event.task.as_ref().map_or_else(String::new, |task| format!(" task {task}"));
    let node = event.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
    context.print(&format!("{} {:<18}{job}{task}{node}: {}\n", event.time.to_rfc3339(), event.kind, event.message))
}
