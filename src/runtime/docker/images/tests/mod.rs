//! Images against a real dockerd and a real registry.

mod collecting;
mod copying;
mod fixture;
mod proxy;

use super::error::ImageError;
use super::facts::ImageFacts;
use super::{Images, PullSettings};
use crate::domain::container::PullPolicy;
use crate::runtime::docker::credentials::Credentials;
use fixture::{Fixture, PASSWORD, PROXY_PORT, USER, until};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn login(password: &str) -> Option<Credentials> {
    let text = format!("127.0.0.1:{PROXY_PORT}\n{USER}\n{password}\n");
    Some(Credentials::parse(text.as_bytes()).unwrap())
}

fn right() -> Option<Credentials> {
    login(PASSWORD)
}

/// Lines of progress that a task has seen.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn ensure(
    images: &Images,
    image: &str,
    policy: PullPolicy,
    login: Option<Credentials>,
) -> Result<ImageFacts, ImageError> {
    images.ensure(image, policy, login, &|_| ()).await
}

/// A task that wants an image.
fn task(
    images: &Images,
    image: &str,
    login: Option<Credentials>,
) -> (tokio::task::JoinHandle<Result<ImageFacts, ImageError>>, Seen) {
    let (seen, images, image) = (Seen::default(), images.clone(), image.to_owned());
    let hears = seen.clone();
    let wanting = async move {
        let hear = move |line| hears.0.lock().unwrap().push(line);
        images.ensure(&image, PullPolicy::Missing, login, &hear).await
    };
    (tokio::spawn(wanting), seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_logins() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let images = Images::new(fixture.docker.clone());
    let image = fixture.publish("team/a", 2, 100_000).await;
    let never = ensure(&images, &image, PullPolicy::Never, right()).await.unwrap_err();
    assert_eq!(never, ImageError::Absent { image: image.clone() });

    let without = ensure(&images, &image, PullPolicy::Missing, None).await.unwrap_err();
    assert!(matches!(without, ImageError::Unauthorized { login: false, .. }), "{without:?}");
    assert!(without.to_string().contains("authFile") && without.to_string().contains("127.0.0.1:5001"), "{without}");
    let wrong = ensure(&images, &image, PullPolicy::Missing, login("wrong-password")).await.unwrap_err();
    assert!(matches!(wrong, ImageError::Unauthorized { login: true, .. }), "{wrong:?}");
    assert!(!format!("{wrong} {wrong:?}").contains("wrong-password"));
    let elsewhere = Credentials::parse(format!("127.0.0.1:9\n{USER}\n{PASSWORD}").as_bytes()).unwrap();
    let other = ensure(&images, &image, PullPolicy::Missing, Some(elsewhere)).await.unwrap_err();
    assert!(matches!(other, ImageError::Unauthorized { login: false, .. }), "{other:?}");
    let absent = format!("127.0.0.1:{PROXY_PORT}/team/absent:1");
    let absent = ensure(&images, &absent, PullPolicy::Missing, right()).await.unwrap_err();
    assert!(matches!(absent, ImageError::NotFound { .. }) && absent.is_user_error(), "{absent:?}");

    let (wanting, seen) = task(&images, &image, right());
    let facts = wanting.await.unwrap().unwrap();
    assert!(facts.id.starts_with("sha256:") && facts.architecture == super::facts::node_architecture(), "{facts:?}");
    assert!(seen.lines()[0].ends_with("asking the registry"), "{:?}", seen.lines());
    assert_eq!(ensure(&images, &image, PullPolicy::Never, None).await, Ok(facts.clone()));
    let asked = fixture.requests("/v2/team/a/manifests/");
    assert_eq!(ensure(&images, &image, PullPolicy::Missing, None).await, Ok(facts.clone()));
    assert_eq!(fixture.requests("/v2/team/a/manifests/"), asked, "an image that is there is not asked for");
    assert_eq!(ensure(&images, &image, PullPolicy::Always, right()).await, Ok(facts));
    assert!(fixture.requests("/v2/team/a/manifests/") > asked);
    let always = ensure(&images, &image, PullPolicy::Always, None).await.unwrap_err();
    assert!(matches!(always, ImageError::Unauthorized { .. }), "{always:?}");
    let closed = "127.0.0.1:9/team/a:1";
    let unreachable = ensure(&images, closed, PullPolicy::Missing, None).await.unwrap_err();
    assert!(
        matches!(&unreachable, ImageError::Unreachable { registry, .. } if registry == "127.0.0.1:9"),
        "{unreachable:?}"
    );
    assert!(!unreachable.is_user_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_want_one_image_share_one_pull() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let images = Images::new(fixture.docker.clone());
    let single = fixture.publish("team/single", 3, 300_000).await;
    let pushed = fixture.requests("/v2/team/single/");
    ensure(&images, &single, PullPolicy::Missing, right()).await.unwrap();
    let asked_by_one = fixture.requests("/v2/team/single/") - pushed;

    let image = fixture.publish("team/shared", 3, 300_000).await;
    let pushed = fixture.requests("/v2/team/shared/");
    fixture.proxy.stall_after(400_000);
    let tasks: Vec<_> = (0..5).map(|_| task(&images, &image, right())).collect();
    // Wrong credentials do not come along with the others.
    let (stranger, _) = task(&images, &image, login("wrong-password"));
    until("the pull has come half way", async || fixture.proxy.held() > 0).await;
    for (_, seen) in &tasks {
        until("every task sees how far it is", async || seen.lines().iter().any(|line| line.contains("of 3 layers")))
            .await;
    }
    // One who gives up takes nobody along.
    let mut tasks = tasks.into_iter();
    tasks.next().unwrap().0.abort();
    fixture.proxy.open();
    let mut ids = Vec::new();
    for (wanting, seen) in tasks {
        ids.push(wanting.await.unwrap().unwrap().id);
        let lines = seen.lines();
        assert!(lines.iter().all(|line| line.starts_with(&format!("pulling {image}: "))), "{lines:?}");
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert!(asked_by_one > 3);
    assert_eq!(fixture.requests("/v2/team/shared/") - pushed, asked_by_one, "five tasks ask as often as one");
    let refused = stranger.await.unwrap().unwrap_err();
    assert!(matches!(refused, ImageError::Unauthorized { login: true, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_ends() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let images = Images::new(fixture.docker.clone());
    let image = fixture.publish("team/a", 2, 500_000).await;
    fixture.proxy.stall_after(300_000);
    let (first, _) = task(&images, &image, right());
    let (second, _) = task(&images, &image, right());
    until("the pull has come half way", async || fixture.proxy.held() > 0).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(fixture.proxy.held() > 0, "one still waits for it");
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    until("dockerd ends the pull", async || fixture.dockerd_said("context canceled")).await;
    assert_eq!(images.inspect(&image).await, Ok(None));
    // Closing ends what is under way, and says so to who still waits.
    let (third, seen) = task(&images, &image, right());
    until("the pull has begun", async || !seen.lines().is_empty()).await;
    images.close().await;
    let closed = third.await.unwrap().unwrap_err();
    assert!(matches!(closed, ImageError::Closed { .. }), "{closed:?}");
    fixture.proxy.open();
    let again = Images::new(fixture.docker.clone());
    ensure(&again, &image, PullPolicy::Missing, right()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_is_given_up() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let stall = Duration::from_secs(3);
    let settings = PullSettings { stall, ..PullSettings::default() };
    let images = Images::with_settings(fixture.docker.clone(), settings);
    let image = fixture.publish("team/a", 2, 500_000).await;
    // In the middle of a layer, and before the first word.
    for bytes in [300_000, 0] {
        fixture.proxy.stall_after(bytes);
        let stalled = ensure(&images, &image, PullPolicy::Missing, right()).await.unwrap_err();
        assert!(matches!(&stalled, ImageError::Stalled { after, .. } if *after == stall), "{stalled:?}");
        assert!(stalled.to_string().contains("no progress for 3 s") && !stalled.is_user_error(), "{stalled}");
    }
    fixture.proxy.open();
    ensure(&images, &image, PullPolicy::Missing, right()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_in_the_middle_of_a_layer_is_an_error_and_later_forgotten() {
    if fixture::missing().is_some() {
        return;
    }
    let mut fixture = Fixture::start().await;
    let images = Images::new(fixture.docker.clone());
    let image = fixture.publish("team/a", 2, 500_000).await;
    fixture.proxy.stall_after(300_000);
    let (wanting, _) = task(&images, &image, right());
    until("the pull has come half way", async || fixture.proxy.held() > 0).await;
    fixture.kill_registry();
    fixture.proxy.cut();
    let cut = wanting.await.unwrap().unwrap_err();
    assert!(matches!(cut, ImageError::Unreachable { .. }), "{cut:?}");
    assert_eq!(images.inspect(&image).await, Ok(None), "half an image is none");
    fixture.start_registry().await;
    ensure(&images, &image, PullPolicy::Missing, right()).await.unwrap();
    fixture.kill_registry();
    let always = ensure(&images, &image, PullPolicy::Always, right()).await.unwrap_err();
    assert!(matches!(always, ImageError::Unreachable { .. }), "{always:?}");
}
