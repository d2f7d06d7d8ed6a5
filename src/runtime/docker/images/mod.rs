//! Gets images onto the node: policy, login, progress, one pull for all who want the same.
//!
//! The whole time of a pull is not limited here: who waits gives up by dropping the future. What is limited is
//! silence: a pull that gets no further for [`PullSettings::stall`] is ended. An image that is on the node is there for
//! every job, whoever pulled it with whatever login, as with Docker itself; `always` asks the registry each time.
//! What wharf has pulled it may remove again ([`collect`]); `book` remembers which those are.

pub mod collect;
pub mod error;
pub mod facts;
pub mod progress;
pub mod reference;

mod book;
mod collector;
mod pull;
mod pulls;
#[cfg(test)]
mod tests;

use super::credentials::Credentials;
use crate::domain::container::PullPolicy;
use crate::runtime::shimmed::clock;
use bollard::Docker;
use bollard::errors::Error as DockerError;
use book::{Book, Pulled};
use error::ImageError;
use facts::ImageFacts;
use pulls::{Key, Pulls};
use reference::Reference;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// dockerd answers questions about images from memory.
const INSPECT_DEADLINE: Duration = Duration::from_secs(30);
/// How pulls behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSettings {
    /// A pull without progress for this long is ended.
    pub stall: Duration,
    /// At most one line of progress in this time.
    pub progress_every: Duration,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self { stall: Duration::from_secs(300), progress_every: Duration::from_millis(200) }
    }
}

/// The node's images. Clones are one.
#[derive(Debug, Clone)]
pub struct Images {
    docker: Docker,
    pulls: Arc<Pulls>,
    book: Arc<Mutex<Book>>,
    /// The image that is being removed: whoever needs that one waits, and nobody else.
    leaving: Arc<watch::Sender<Option<Leaving>>>,
}

/// An image on its way off the node.
#[derive(Debug)]
struct Leaving {
    id: String,
    pulled: Pulled,
}

impl Images {
    pub fn new(docker: Docker) -> Self {
        Self::with_settings(docker, PullSettings::default())
    }

    pub fn with_settings(docker: Docker, settings: PullSettings) -> Self {
        let pulls = Arc::new(Pulls::new(pull::Puller::new(docker.clone(), settings)));
        Self { docker, pulls, book: Arc::default(), leaving: Arc::new(watch::Sender::new(None)) }
    }

    /// With a file that remembers what was pulled. Blocking, but brief.
    pub fn remembering(docker: Docker, file: PathBuf) -> Self {
        Self { book: Arc::new(Mutex::new(Book::read(file))), ..Self::new(docker) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // It is whole between any two statements.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is made of it.
    pub fn used(&self, id: &str) {
        self.book().touch(id, clock::now());
    }

    /// Waits as long as the image that is being removed is this one.
    async fn wait_until_gone(&self, is_it: impl Fn(&Leaving) -> bool) {
        let mut leaving = self.leaving.subscribe();
        // The sender is ours.
        let _ = leaving.wait_for(|leaving| !leaving.as_ref().is_some_and(&is_it)).await;
    }

    /// `None` where the node has no such image that stays.
    async fn present(&self, reference: &str) -> Result<Option<ImageFacts>, ImageError> {
        loop {
            let Some(found) = self.inspect(reference).await? else { return Ok(None) };
            let is_found = |leaving: &Leaving| leaving.id == found.id;
            if !self.leaving.borrow().as_ref().is_some_and(is_found) {
                return Ok(Some(found));
            }
            self.wait_until_gone(is_found).await;
        }
    }

    /// Has the image on the node, by the policy, and says what it is. `progress` hears lines for people while a pull
    /// runs. A login is shown only to the registry that it names. With `always`, a registry that does not answer is an
    /// error also where the node has the image: what runs would not be what was asked for. Dropping the future gives up:
    /// the pull goes on only if others wait for it.
    pub async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        login: Option<Credentials>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<ImageFacts, ImageError> {
        let image = Reference::parse(reference)?;
        // Said before the look: what is needed now is not removed after it.
        self.book().touch_named(&image, clock::now());
        self.wait_until_gone(|leaving| leaving.pulled.is_named(&image)).await;
        if let Some(found) = self.present(reference).await?.filter(|_| policy != PullPolicy::Always) {
            // By whatever name it was pulled.
            self.used(&found.id);
            return usable(found);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::Absent { image: reference.to_owned() });
        }
        let login = login.filter(|login| login.is_for(&image));
        // Also what has another name, or was pulled by its digest and has none. Where dockerd does not say, what is
        // pulled is taken for somebody else's.
        let before: Option<BTreeSet<String>> =
            self.listed().await.ok().map(|images| images.into_iter().map(|image| image.id).collect());
        self.pulls.join(Key { image: image.clone(), login }).wait(progress).await?;
        let gone = || ImageError::engine("inspecting", reference, "the image is gone right after it was pulled");
        let found = self.inspect(&image.to_string()).await?.ok_or_else(gone)?;
        // One that was there already is whose it was.
        let is_new = before.is_some_and(|before| !before.contains(&found.id));
        let mut book = self.book();
        if is_new || book.get(&found.id).is_some() {
            book.add(&found.id, &image.to_string(), clock::now());
        }
        drop(book);
        usable(ImageFacts { reference: reference.to_owned(), ..found })
    }

    /// `None` where the node has no such image.
    pub async fn inspect(&self, reference: &str) -> Result<Option<ImageFacts>, ImageError> {
        let failed = |said: String| ImageError::engine("inspecting", reference, said);
        match tokio::time::timeout(INSPECT_DEADLINE, self.docker.inspect_image(reference)).await {
            Ok(Ok(found)) => ImageFacts::of(reference, found).map(Some),
            Ok(Err(DockerError::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", INSPECT_DEADLINE.as_secs()))),
        }
    }

    /// Ends all pulls, and returns once they have ended.
    pub async fn close(&self) {
        self.pulls.close().await;
    }
}

fn usable(found: ImageFacts) -> Result<ImageFacts, ImageError> {
    found.check_architecture(facts::node_architecture())?;
    Ok(found)
}
