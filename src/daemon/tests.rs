//! What holds of processes put together.

mod dumps;
mod folders;
mod schedules;
