//! A thread with a bounded queue, for blocking IO: async callers ask, wait for the answer, and never longer than their
//! deadline. The thread ends when its owner is dropped, after the work that was queued before that.

use super::StoreError;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long an owner waits for its thread when dropped: a thread stuck in the kernel must not keep the process.
const END_WAIT: Duration = Duration::from_secs(5);

/// Owns the thread.
#[derive(Debug)]
pub(crate) struct Worker<J> {
    jobs: Jobs<J>,
    stopping: Arc<AtomicBool>,
    /// Disconnects when the thread has ended. In a mutex only because a receiver cannot be shared.
    ended: Mutex<std::sync::mpsc::Receiver<Infallible>>,
}

/// The sending side of the queue.
#[derive(Debug)]
pub(crate) struct Jobs<J> {
    /// `None` only wakes the thread, so that it sees that it shall stop.
    queue: mpsc::Sender<Option<J>>,
}

impl<J> Clone for Jobs<J> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// The receiving side of the queue, on the thread.
#[derive(Debug)]
pub(crate) struct Inbox<J> {
    queue: mpsc::Receiver<Option<J>>,
    stopping: Arc<AtomicBool>,
}

/// Where an answer goes, and until when anybody waits for it.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    sender: oneshot::Sender<Result<T, StoreError>>,
    deadline: Instant,
}

impl<J: Send + 'static> Worker<J> {
    /// Starts `body` on a thread of its own; it runs until [`Inbox::next`] says `None`.
    pub(crate) fn start<F>(name: &'static str, capacity: usize, body: F) -> Result<Self, StoreError>
    where
        F: FnOnce(Inbox<J>) + Send + 'static,
    {
        let (queue, receiver) = mpsc::channel(capacity);
        let (alive, ended) = std::sync::mpsc::channel::<Infallible>();
        let stopping = Arc::new(AtomicBool::new(false));
        let inbox = Inbox { queue: receiver, stopping: Arc::clone(&stopping) };
        let run = move || {
            body(inbox);
            drop(alive);
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| StoreError::Unavailable {
            operation: "starting a thread of the store",
            message: format!("{name}: {error}"),
        })?;
        Ok(Self { jobs: Jobs { queue }, stopping, ended: Mutex::new(ended) })
    }

    pub(crate) fn jobs(&self) -> &Jobs<J> {
        &self.jobs
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // A full queue needs no wake: the thread looks at the flag after each job.
        let _ = self.jobs.queue.try_send(None);
        if let Ok(ended) = self.ended.get_mut() {
            let _ = ended.recv_timeout(END_WAIT);
        }
    }
}

impl<J> Inbox<J> {
    /// The next job, waiting for it; `None` once the owner is gone and the queue is empty.
    pub(crate) fn next(&mut self) -> Option<J> {
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return self.try_next();
            }
            match self.queue.blocking_recv() {
                Some(Some(job)) => return Some(job),
                Some(None) => {}
                None => return None,
            }
        }
    }

    /// The next job if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<J> {
        loop {
            match self.queue.try_recv() {
                Ok(Some(job)) => return Some(job),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }
}

impl<J> Jobs<J> {
    /// Jobs that are queued and not begun.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Queues the job that `make` builds around a reply, and waits for the answer, both within `deadline`.
    ///
    /// A caller that is dropped or runs out of time leaves the job where it is: not begun, or done as a whole.
    pub(crate) async fn ask<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        make: impl FnOnce(Reply<T>) -> J,
    ) -> Result<T, StoreError> {
        let unavailable = |message: String| StoreError::Unavailable { operation, message };
        let stopped = || unavailable("the store's thread has stopped; the log says why".to_owned());
        let answer = async {
            let (sender, receiver) = oneshot::channel();
            let permit = self.queue.reserve().await.map_err(|_| stopped())?;
            permit.send(Some(make(Reply { sender, deadline: Instant::now() + deadline })));
            receiver.await.map_err(|_| stopped())?
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(unavailable(format!("no answer from the disk within {} ms", deadline.as_millis()))),
        }
    }
}

impl<T> Reply<T> {
    /// Nobody waits any more: a job not begun is better left undone.
    pub(crate) fn expired(&self) -> bool {
        self.sender.is_closed() && Instant::now() >= self.deadline
    }

    pub(crate) fn send(self, answer: Result<T, StoreError>) {
        // The caller may have gone; what was done stays done.
        let _ = self.sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn start() -> Worker<Job> {
        Worker::start("test", 4, |mut inbox: Inbox<Job>| {
            while let Some(job) = inbox.next() {
                job();
            }
        })
        .unwrap()
    }

    #[tokio::test]
    async fn answers_come_back_and_a_hang_ends_at_the_deadline() {
        let worker = start();
        let ask = |deadline, wait: Option<std::sync::mpsc::Receiver<()>>| {
            worker.jobs().ask("asking", deadline, move |reply: Reply<u8>| -> Job {
                Box::new(move || {
                    if let Some(wait) = wait {
                        let _ = wait.recv();
                    }
                    reply.send(Ok(7));
                })
            })
        };
        assert_eq!(ask(Duration::from_secs(10), None).await, Ok(7));
        let (release, wait) = std::sync::mpsc::channel();
        let error = ask(Duration::from_millis(20), Some(wait)).await.unwrap_err();
        assert_eq!(error.to_string(), "asking: no answer from the disk within 20 ms");
        drop(release);
        assert_eq!(ask(Duration::from_secs(10), None).await, Ok(7));
    }

    #[test]
    fn what_was_queued_is_done_before_the_end() {
        let worker = start();
        let done = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&done);
        worker.jobs.queue.try_send(Some(Box::new(move || mark.store(true, Ordering::Release)))).unwrap();
        let other_sender = worker.jobs().clone();
        drop(worker);
        assert!(done.load(Ordering::Acquire));
        drop(other_sender);
    }

    #[tokio::test]
    async fn a_thread_that_died_is_an_error_not_a_hang() {
        let worker: Worker<Job> = Worker::start("test", 4, drop).unwrap();
        let answer =
            worker.jobs().ask("asking", Duration::from_secs(10), |reply: Reply<u8>| Box::new(|| drop(reply)));
        assert!(answer.await.unwrap_err().to_string().contains("has stopped"));
    }
}
