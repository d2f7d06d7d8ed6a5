//! How long commands that wait bear a controller or agent that does not answer, and how often they ask.

use super::context::Context;
use crate::domain::command::{Error, ErrorKind};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long an outage may last before a command that waits gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// A stream that stood this long was a connection that worked, even if it had nothing to say.
const STEADY: Duration = Duration::from_secs(5);

/// Since when one peer has not answered.
#[derive(Debug)]
pub struct Silence<'a> {
    context: &'a Context,
    since: Option<Instant>,
    opened: Option<Instant>,
}

impl<'a> Silence<'a> {
    pub fn new(context: &'a Context) -> Self {
        Self { context, since: None, opened: None }
    }

    /// Something was received: the outage is over, and the next one is a new one.
    pub fn heard(&mut self) {
        if self.since.take().is_some() {
            // Only who was silent may say so: others that still are would be told of again and again.
            self.context.silence_told.store(false, Ordering::Relaxed);
        }
    }

    /// A stream was opened. That alone does not end an outage: it may be cut at once, for ever.
    pub fn opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// Bears an error for a while if the other side may come back from it.
    pub fn bear(&mut self, error: Error) -> Result<(), Error> {
        self.bear_at(error, Instant::now())
    }

    fn bear_at(&mut self, error: Error, now: Instant) -> Result<(), Error> {
        if !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded) {
            return Err(error);
        }
        if self.opened.take().is_some_and(|opened| now.saturating_duration_since(opened) >= STEADY) {
            self.heard();
        }
        let Some(since) = self.since else {
            self.since = Some(now);
            if !self.context.silence_told.swap(true, Ordering::Relaxed) {
                self.context.remark(&format!("{error}; trying again for {} s", PATIENCE.as_secs()));
            }
            return Ok(());
        };
        if now.saturating_duration_since(since) > PATIENCE { Err(error) } else { Ok(()) }
    }
}

/// Pauses between questions: short at first, for jobs that end at once; a second in the long run.
#[derive(Debug)]
pub struct Pace {
    next: Duration,
}

impl Pace {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The next pause.
    pub fn step(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 5 / 4).min(Self::LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Error {
        Error::unavailable("the controller is away")
    }

    #[test]
    fn every_outage_is_borne_anew() {
        let context = Context::for_tests();
        let (mut silence, mut now) = (Silence::new(&context), Instant::now());
        for _ in 0..3 {
            for _ in 0..4 {
                assert!(silence.bear_at(down(), now).is_ok());
                now += PATIENCE / 5;
            }
            silence.heard();
            now += PATIENCE * 2;
        }
        assert!(silence.bear_at(down(), now).is_ok());
        assert_eq!(silence.bear_at(down(), now + PATIENCE * 2), Err(down()));
    }

    #[test]
    fn a_quiet_stream_that_stood_ends_an_outage_and_one_cut_at_once_does_not() {
        let context = Context::for_tests();
        let (mut silence, mut now) = (Silence::new(&context), Instant::now());
        for _ in 0..3 {
            assert!(silence.bear_at(down(), now).is_ok());
            silence.opened = Some(now);
            now += PATIENCE * 2;
        }
        assert!(silence.bear_at(down(), now).is_ok());
        let mut flapping = Silence::new(&context);
        let end = now + PATIENCE + STEADY;
        while now < end {
            flapping.opened = Some(now);
            now += STEADY / 2;
            if flapping.bear_at(down(), now).is_err() {
                return;
            }
        }
        panic!("borne for ever");
    }

    #[test]
    fn an_outage_is_told_once_until_the_one_who_met_it_hears_again() {
        let context = Context::for_tests();
        let told = || context.silence_told.load(Ordering::Relaxed);
        let (mut one, mut other) = (Silence::new(&context), Silence::new(&context));
        one.bear(down()).unwrap();
        assert!(told());
        other.heard();
        assert!(told(), "a stream that was never silent ends no outage");
        one.heard();
        assert!(!told());
    }

    #[test]
    fn other_errors_are_not_borne() {
        let context = Context::for_tests();
        let error = Error::not_found("there is no job 7");
        assert_eq!(Silence::new(&context).bear(error.clone()), Err(error));
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let mut pace = Pace::new();
        assert_eq!(pace.step(), Pace::FIRST);
        let steps: Vec<Duration> = (0..30).map(|_| pace.step()).collect();
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(steps.last(), Some(&Pace::LONGEST));
    }
}
