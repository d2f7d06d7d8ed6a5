//! What is going to happen, by time; of one instant, in the order it was made.

use crate::domain::exit::Exit;
use crate::domain::ids::{Generation, RunId};
use crate::domain::run::Action;
use crate::domain::time::Timestamp;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

#[derive(Debug)]
pub(super) enum Event {
    /// Agents answer commands about one run.
    Answers {
        run: RunId,
        actions: Vec<Action>,
    },
    /// Tasks, by position in the run, come to their end.
    Ends {
        run: RunId,
        generation: Generation,
        tasks: Vec<usize>,
        exit: Box<Exit>,
    },
    /// A back-off is over.
    Wake {
        run: RunId,
    },
    /// A gang had until now to be ready.
    Late {
        run: RunId,
    },
    /// A machine goes down, by its number; is missed; is back.
    NodeDown {
        node: usize,
    },
    NodeMissed {
        node: usize,
    },
    NodeBack {
        node: usize,
    },
}

#[derive(Debug)]
struct Due {
    at: Timestamp,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Due>>,
    made: u64,
}

impl Events {
    pub(super) fn add(&mut self, at: Timestamp, event: Event) {
        self.made += 1;
        self.heap.push(Reverse(Due { at, order: self.made, event }));
    }

    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The next event, if it is due by then.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Event> {
        self.next_at().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse(due)| due.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_in_the_order_they_were_made() {
        let mut events = Events::default();
        for (at, run) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            events.add(Timestamp(at), Event::Wake { run: RunId(run) });
        }
        let mut seen = Vec::new();
        assert!(events.due(Timestamp(2)).is_none());
        while let Some(Event::Wake { run }) = events.due(Timestamp(5)) {
            seen.push(run.0);
        }
        assert_eq!(seen, [2, 4, 1, 3]);
    }
}
