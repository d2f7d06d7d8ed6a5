//! How a task comes to its terminal state, and the exits that are decided here rather than by its command.

use super::{Effect, TaskRecord};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;

/// Longest reason and notice. They come from programs and kernels, and are journalled and sent as they are.
pub(super) const MAX_TEXT_BYTES: usize = 2048;
/// Stands for what was cut off.
const CUT: &str = " ...";
/// More are left out, which the last one says.
pub(super) const MAX_NOTICES: usize = 32;
const MORE_NOTICES: &str = "there were more notices than are kept";

/// Shortens a text that is too long, between characters.
fn bound(text: &mut String) {
    if text.len() > MAX_TEXT_BYTES {
        let fits = (0..=MAX_TEXT_BYTES - CUT.len()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(fits.unwrap_or(0));
        text.push_str(CUT);
    }
}

/// Adds what is not known yet.
pub(super) fn note(task: &mut TaskRecord, notices: Vec<String>) {
    for mut notice in notices {
        bound(&mut notice);
        if task.notices.len() >= MAX_NOTICES || task.notices.contains(&notice) {
            continue;
        }
        let last = task.notices.len() == MAX_NOTICES - 1;
        task.notices.push(if last { MORE_NOTICES.to_owned() } else { notice });
    }
}

/// Sets the terminal state. What is held stays held until release; if release was asked before, removal follows.
pub(super) fn end(task: &mut TaskRecord, at: Timestamp, mut exit: Exit) -> Vec<Effect> {
    exit = of_hardware(task, exit);
    bound(&mut exit.reason);
    task.state = TaskState::of_exit(&exit);
    task.ended_at = Some(at);
    task.held_until = None;
    task.exit = Some(exit);
    if task.release_asked && task.residue { vec![Effect::Remove] } else { Vec::new() }
}

/// The end of a task whose hardware failed is the hardware's, unless its command came to its own end before.
fn of_hardware(task: &TaskRecord, exit: Exit) -> Exit {
    let Some(hardware) = task.hardware.as_ref().filter(|_| exit.class != ExitClass::Success) else { return exit };
    let mut faults = hardware.faults.clone();
    faults.extend(exit.faults.iter().filter(|fault| !hardware.faults.contains(fault)));
    let mut faulty_gpus = hardware.gpus.clone();
    faulty_gpus.extend(exit.faulty_gpus.iter().filter(|gpu| !hardware.gpus.contains(gpu)).cloned());
    Exit { class: ExitClass::Hardware, reason: hardware.reason.clone(), faults, faulty_gpus, ..exit }
}

pub(super) fn stopped(reason: &str) -> Exit {
    Exit::without_status(ExitClass::Stopped, reason)
}

pub(super) fn failed(user_error: bool, reason: String) -> Exit {
    Exit::without_status(if user_error { ExitClass::User } else { ExitClass::Platform }, reason)
}
