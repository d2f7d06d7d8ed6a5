//! `wharf top`: the fleet, live. Asks the controller once a second and draws what it said; changes nothing.

mod draw;
mod picture;
mod question;
#[cfg(test)]
mod tests;

use self::question::Question;
use super::context::Context;
use super::exit_code::OK;
use super::fail::{Failure, bad_usage};
use super::{output, signals};
use crate::api::ControllerApi;
use crate::api::controller::JobFilter;
use crate::domain::command::{Error, ErrorKind};
use draw::View;
use picture::Picture;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::mpsc;

const PERIOD: Duration = Duration::from_secs(1);
/// A controller that takes longer is shown as silent; the last picture stays.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Jobs in the list below the GPUs.
const JOBS: u32 = 100;

pub async fn top(context: &Context) -> Result<u8, Failure> {
    let controller = context.controller()?;
    if context.json {
        return stream(context, &*controller).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(bad_usage(
            "top draws on a terminal, and this is none; 'wharf gpus' prints once, 'wharf top --json' prints for programs",
        ));
    }
    // Before the screen is taken: an unreachable controller is an error as everywhere.
    let mut picture = ask(context, &*controller).await?;
    let result = match ratatui::try_init() {
        Ok(mut terminal) => live(context, &*controller, &mut picture, &mut terminal).await,
        Err(error) => Err(Error::unavailable(format!("drawing on this terminal: {error}")).into()),
    };
    // Also what was taken before the other half of it failed. A terminal that is gone needs nothing back.
    let _ = ratatui::try_restore();
    result
}

/// Until somebody leaves.
async fn live(
    context: &Context,
    controller: &dyn ControllerApi,
    picture: &mut Picture,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<u8, Failure> {
    let mut keys = keys();
    let mut view = View::new(context.color_allowed);
    let mut question = Question::new(|| {
        Box::pin(async {
            tokio::time::sleep(PERIOD).await;
            ask(context, controller).await
        })
    });
    let mut silent = None;
    let interrupted = signals::interrupted();
    tokio::pin!(interrupted);
    loop {
        terminal.draw(|frame| draw::draw(frame, picture, silent.as_deref(), &mut view))?;
        tokio::select! {
            failure = &mut interrupted => return Err(failure),
            key = keys.recv() => match key {
                Some(Key::Leave) | None => return Ok(OK),
                Some(Key::Scroll(lines)) => view.scroll(lines),
                Some(Key::Redraw) => {}
            },
            answer = question.answer() => match answer {
                Ok(new) => (*picture, silent) = (new, None),
                Err(error) => silent = Some(error.message),
            },
        }
    }
}

/// One object per second, until nobody reads.
async fn stream(context: &Context, controller: &dyn ControllerApi) -> Result<u8, Failure> {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let show = async {
        loop {
            tick.tick().await;
            context.print_json(&ask(context, controller).await?)?;
        }
    };
    tokio::select! {
        failed = show => failed,
        () = output::reader_gone() => Ok(OK),
        failure = signals::interrupted() => Err(failure),
    }
}

async fn ask(context: &Context, controller: &dyn ControllerApi) -> Result<Picture, Error> {
    let who = &context.who;
    let all = async {
        let (nodes, gpus, jobs) = tokio::join!(
            controller.list_nodes(who),
            controller.list_gpus(who, None),
            controller.list_jobs(who, JobFilter::default(), JOBS, "")
        );
        let (jobs, more) = jobs?;
        Ok(Picture { time: super::table::now(), nodes: nodes?, gpus: gpus?, jobs, more_jobs: !more.is_empty() })
    };
    tokio::time::timeout(ASK_DEADLINE, all).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("no answer within {} s", ASK_DEADLINE.as_secs())))
    })
}

enum Key {
    Leave,
    /// Down, or up where negative.
    Scroll(i32),
    Redraw,
}

/// Keys as they come. The reading thread ends with the process, or at the next key after nobody listens any more.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Resize(..) => Key::Redraw,
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => Key::Leave,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Leave,
                    KeyCode::Down | KeyCode::Char('j') => Key::Scroll(1),
                    KeyCode::Up | KeyCode::Char('k') => Key::Scroll(-1),
                    KeyCode::PageDown | KeyCode::Char(' ') => Key::Scroll(10),
                    KeyCode::PageUp => Key::Scroll(-10),
                    KeyCode::Home => Key::Scroll(i32::MIN),
                    KeyCode::End => Key::Scroll(i32::MAX),
                    _ => continue,
                },
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}
