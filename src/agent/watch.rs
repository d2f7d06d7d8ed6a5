//! Who watches this node: the recent changes in memory, and the live ones.
//!
//! Only durable statuses come here. The window is bounded, and so is every watcher: one that does not keep up
//! is told so and resumes by its cursor.

use crate::api::agent::WatchedStatus;
use crate::api::stream::Answers;
use crate::domain::command::{Error, ErrorKind, SequencedStatus, Violation};
use crate::domain::ids::JournalId;
use std::collections::VecDeque;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Changes that a watcher can still resume from.
pub const WINDOW: usize = 1024;
/// Changes that wait in the connection of one watcher.
const CONNECTION: usize = 64;

/// The newest changes, and everybody who wants the next.
#[derive(Debug)]
pub struct Watchers {
    journal_id: JournalId,
    window: VecDeque<SequencedStatus>,
    /// Every change after this sequence is in the window.
    complete_after: u64,
    newest: u64,
    live: broadcast::Sender<SequencedStatus>,
}

/// What a new watcher gets: the past it asked for, then the present.
#[derive(Debug)]
pub struct Watch {
    journal_id: JournalId,
    past: Vec<SequencedStatus>,
    live: broadcast::Receiver<SequencedStatus>,
}

impl Watchers {
    /// `newest`: the highest sequence given out by an earlier process of this agent.
    pub fn new(journal_id: JournalId, newest: u64) -> Self {
        let (live, _) = broadcast::channel(WINDOW);
        Self { journal_id, window: VecDeque::with_capacity(WINDOW), complete_after: newest, newest, live }
    }

    pub fn publish(&mut self, change: SequencedStatus) {
        if self.window.len() == WINDOW
            && let Some(oldest) = self.window.pop_front()
        {
            self.complete_after = oldest.sequence;
        }
        self.newest = change.sequence;
        self.window.push_back(change.clone());
        // An error means that nobody watches.
        let _ = self.live.send(change);
    }

    /// Everything after `cursor`; `None` is from now on.
    pub fn watch(&self, cursor: Option<&str>) -> Result<Watch, Error> {
        let after = match cursor {
            None => self.newest,
            Some(cursor) => self.parse(cursor)?,
        };
        let past = self.window.iter().filter(|change| change.sequence > after).cloned().collect();
        Ok(Watch { journal_id: self.journal_id.clone(), past, live: self.live.subscribe() })
    }

    fn parse(&self, cursor: &str) -> Result<u64, Error> {
        let parsed = cursor.rsplit_once(':').and_then(|(journal, sequence)| Some((journal, sequence.parse().ok()?)));
        let Some((journal, sequence)) = parsed else {
            let mut error = Error::new(ErrorKind::Invalid, "watching tasks: the cursor is malformed");
            error.violations.push(Violation {
                field: "cursor".to_owned(),
                message: "not a cursor of Watch".to_owned(),
                found: cursor.chars().take(80).collect(),
                allowed: "JOURNAL_ID:SEQUENCE, as given with an earlier change".to_owned(),
            });
            return Err(error);
        };
        if journal != self.journal_id.0 || sequence < self.complete_after || sequence > self.newest {
            let oldest = format!("{}:{}", self.journal_id, self.complete_after);
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("watching tasks: changes after {cursor} are not kept here, the oldest cursor is {oldest}"),
            ));
        }
        Ok(sequence)
    }
}

impl Watch {
    /// Feeds a bounded stream until its reader goes, falls behind, or the agent ends.
    pub fn stream(
        self,
        tracker: &tokio_util::task::TaskTracker,
        cancel: CancellationToken,
    ) -> Answers<WatchedStatus> {
        let (answers, reader) = mpsc::channel(CONNECTION);
        tracker.spawn(async move {
            let ended = answers.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = ended.closed() => {}
                () = self.feed(answers) => {}
            }
        });
        reader
    }

    async fn feed(mut self, answers: mpsc::Sender<Result<WatchedStatus, Error>>) {
        let mut sent = 0;
        for change in std::mem::take(&mut self.past) {
            sent = change.sequence;
            if answers.send(Ok(self.watched(change))).await.is_err() {
                return;
            }
        }
        loop {
            match self.live.recv().await {
                Ok(change) => {
                    sent = change.sequence;
                    if answers.send(Ok(self.watched(change))).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let cursor = format!("{}:{sent}", self.journal_id);
                    let message = format!("watching tasks: {missed} changes behind, resume after {cursor}");
                    let _ = answers.send(Err(Error::new(ErrorKind::Exhausted, message))).await;
                    return;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn watched(&self, change: SequencedStatus) -> WatchedStatus {
        WatchedStatus { cursor: format!("{}:{}", self.journal_id, change.sequence), status: change.status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Generation;
    use crate::domain::task::{TaskState, TaskStatus};

    fn change(sequence: u64) -> SequencedStatus {
        let status = TaskStatus {
            id: "1.1.0.0".parse().unwrap(),
            generation: Generation(1),
            state: TaskState::Running,
            started_at: None,
            ended_at: None,
            exit: None,
            holding: true,
            notices: Vec::new(),
            progress: None,
            held_until: None,
        };
        SequencedStatus { sequence, status }
    }

    #[test]
    fn a_cursor_resumes_inside_the_window_only() {
        let mut watchers = Watchers::new(JournalId::from("j"), 10);
        for sequence in 11..=10 + WINDOW as u64 + 5 {
            watchers.publish(change(sequence));
        }
        assert_eq!(watchers.watch(Some("j:1030")).unwrap().past.len(), 9);
        assert_eq!(watchers.watch(None).unwrap().past.len(), 0);
        let error = watchers.watch(Some("j:11")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::OutOfRange);
        assert!(error.message.contains("j:15"), "{}", error.message);
        assert_eq!(watchers.watch(Some("other:1030")).unwrap_err().kind, ErrorKind::OutOfRange);
        assert_eq!(watchers.watch(Some("j:9999")).unwrap_err().kind, ErrorKind::OutOfRange);
        assert_eq!(watchers.watch(Some("soon")).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn the_past_comes_first_then_the_present() {
        let mut watchers = Watchers::new(JournalId::from("j"), 0);
        watchers.publish(change(1));
        let tracker = tokio_util::task::TaskTracker::new();
        let mut stream = watchers.watch(Some("j:0")).unwrap().stream(&tracker, CancellationToken::new());
        watchers.publish(change(2));
        assert_eq!(stream.recv().await.unwrap().unwrap().cursor, "j:1");
        assert_eq!(stream.recv().await.unwrap().unwrap().cursor, "j:2");
        drop(stream);
        tracker.close();
        tracker.wait().await;
    }
}
