//! A question that is asked again and again, whatever else happens meanwhile.

use std::pin::Pin;

type UnderWay<'a, A> = Pin<Box<dyn Future<Output = A> + Send + 'a>>;

/// The question under way. Waiting for its answer can be given up and taken up again: a key that is held down comes
/// more often than answers do, and must not begin the question anew each time.
pub(super) struct Question<'a, A> {
    begin: Box<dyn Fn() -> UnderWay<'a, A> + Send + 'a>,
    under_way: UnderWay<'a, A>,
}

impl<'a, A> Question<'a, A> {
    pub(super) fn new(begin: impl Fn() -> UnderWay<'a, A> + Send + 'a) -> Self {
        Self { under_way: begin(), begin: Box::new(begin) }
    }

    /// The answer; the next question is begun with it.
    pub(super) async fn answer(&mut self) -> A {
        let answer = self.under_way.as_mut().await;
        self.under_way = (self.begin)();
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[tokio::test]
    async fn keys_do_not_begin_a_question_anew() {
        let begun = AtomicU32::new(0);
        let mut question = Question::new(|| {
            let number = begun.fetch_add(1, SeqCst) + 1;
            Box::pin(async move {
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                number
            })
        });
        let (keys, mut pressed) = tokio::sync::mpsc::channel(100);
        for _ in 0..100 {
            keys.try_send(()).unwrap();
        }
        let mut answers = Vec::new();
        while answers.len() < 2 {
            // The key is always there first; each time the question goes on where it was.
            tokio::select! {
                biased;
                answer = question.answer() => answers.push(answer),
                key = pressed.recv() => key.expect("keys are left when the answers come"),
            }
        }
        assert_eq!((answers, begun.load(SeqCst)), (vec![1, 2], 3));
    }
}
