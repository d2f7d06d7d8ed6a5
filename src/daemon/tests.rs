//! What holds of processes put together.

mod folders;
mod schedules;
