//! One pull: the request to dockerd, its stream of messages, the watch over its silence.

use super::PullSettings;
use super::error::{self, ImageError};
use super::progress::PullProgress;
use super::reference::Reference;
use crate::runtime::docker::credentials::Credentials;
use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};

/// The header in which dockerd takes a login.
const LOGIN_HEADER: &str = "X-Registry-Auth";

/// What is told of a pull.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub line: String,
    pub outcome: Option<Result<(), ImageError>>,
}

impl State {
    pub(super) fn new(image: &Reference) -> Self {
        Self { line: PullProgress::new(&image.to_string()).to_string(), outcome: None }
    }
}

/// Asks dockerd to pull.
#[derive(Debug)]
pub(super) struct Puller {
    docker: Docker,
    settings: PullSettings,
}

impl Puller {
    pub(super) fn new(docker: Docker, settings: PullSettings) -> Self {
        // dockerd answers only once the registry does.
        let docker = docker.with_timeout(settings.stall + Duration::from_secs(1));
        // dockerd reads the login in the alphabet for URLs; written in the other one, it would pull without a login.
        let docker = docker.with_request_modifier(|mut request| {
            if let Some(value) = request.headers_mut().get_mut(LOGIN_HEADER) {
                let text = value.to_str().map(|text| text.replace('+', "-").replace('/', "_"));
                if let Some(Ok(for_urls)) = text.ok().map(|text| text.parse()) {
                    *value = for_urls;
                }
                value.set_sensitive(true);
            }
            request
        });
        Self { docker, settings }
    }

    /// Dropping the future closes the connection, on which dockerd ends the pull. (20.10 leaves a question to a registry
    /// that never answers it open until the registry hangs up; nothing waits for it.)
    pub(super) async fn pull(
        &self,
        image: &Reference,
        login: Option<&Credentials>,
        told: &watch::Sender<State>,
    ) -> Result<(), ImageError> {
        let options = CreateImageOptionsBuilder::new().from_image(&image.repository()).tag(image.version()).build();
        let login_for_dockerd = login.map(Credentials::for_dockerd);
        let messages = self.docker.create_image(Some(options), None, login_for_dockerd);
        let mut telling = Telling { told, every: self.settings.progress_every, last: None, due: None };
        self.follow(messages, image, login, &mut telling).await
    }

    async fn follow(
        &self,
        messages: impl Stream<Item = Result<CreateImageInfo, DockerError>>,
        image: &Reference,
        login: Option<&Credentials>,
        telling: &mut Telling<'_>,
    ) -> Result<(), ImageError> {
        let mut messages = std::pin::pin!(messages);
        let mut progress = PullProgress::new(&image.to_string());
        let mut silent_at = Instant::now() + self.settings.stall;
        loop {
            let wake_at = telling.due.map_or(silent_at, |due| due.min(silent_at));
            let Ok(message) = tokio::time::timeout_at(wake_at, messages.next()).await else {
                if Instant::now() >= silent_at {
                    return Err(self.stalled(image, &progress));
                }
                telling.tell(&progress);
                continue;
            };
            match message {
                None => return Ok(()),
                Some(Ok(message)) => {
                    if progress.apply(&message) {
                        silent_at = Instant::now() + self.settings.stall;
                    }
                    telling.tell(&progress);
                }
                Some(Err(DockerError::RequestTimeoutError)) => return Err(self.stalled(image, &progress)),
                Some(Err(failure)) => return Err(why(image, login, failure)),
            }
        }
    }

    fn stalled(&self, image: &Reference, progress: &PullProgress) -> ImageError {
        let (image, last) = (image.to_string(), progress.to_string());
        ImageError::Stalled { image, after: self.settings.stall, last }
    }
}

fn why(image: &Reference, login: Option<&Credentials>, failure: DockerError) -> ImageError {
    match failure {
        DockerError::DockerResponseServerError { status_code, message } => {
            error::of_words(image, login, Some(status_code), &message)
        }
        DockerError::DockerStreamError { error } => error::of_words(image, login, None, &error),
        other => {
            let said = other.to_string();
            let said = login.map_or(said.clone(), |login| login.crossed_out(&said));
            ImageError::engine("pulling", &image.to_string(), said)
        }
    }
}

/// Tells lines, not too often, and the last one too.
struct Telling<'a> {
    told: &'a watch::Sender<State>,
    every: Duration,
    last: Option<Instant>,
    /// When to tell what was held back.
    due: Option<Instant>,
}

impl Telling<'_> {
    fn tell(&mut self, progress: &PullProgress) {
        let now = Instant::now();
        self.due = self.last.map(|last| last + self.every).filter(|due| *due > now);
        if self.due.is_some() {
            return;
        }
        let line = progress.to_string();
        self.told.send_if_modified(|state| {
            let new = state.line != line;
            if new {
                state.line = line;
            }
            new
        });
        self.last = Some(now);
    }
}
