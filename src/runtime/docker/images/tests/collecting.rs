//! Images that nobody needs any more, against a real dockerd and a real registry.

use super::fixture::{self, Fixture};
use super::{ensure, right};
use crate::domain::container::PullPolicy;
use crate::domain::time::Timestamp;
use crate::runtime::docker::images::collect::{ImageRules, Why};
use crate::runtime::docker::images::{Images, Leaving};
use crate::runtime::shimmed::clock;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, TagImageOptionsBuilder};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn rules(keep: Option<Duration>) -> ImageRules {
    ImageRules { keep, high_percent: 100, ..ImageRules::default() }
}

async fn collected(images: &Images, now: Timestamp) -> Vec<(String, Why)> {
    let removed = images.collect(&rules(Some(DAY)), Path::new("/"), now).await.unwrap();
    removed.into_iter().map(|image| (image.id, image.why)).collect()
}

async fn is_there(images: &Images, image: &str) -> bool {
    images.inspect(image).await.unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_wharf_pulled_and_nobody_needs_goes() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let file = fixture.path("images.json");
    let start = || Images::remembering(fixture.docker.clone(), file.clone());
    let mut names = Vec::new();
    for name in ["old", "recent", "held", "named", "theirs"] {
        names.push(fixture.publish(name, 1, 1000).await);
    }
    let [old, recent, held, named, theirs] = &names[..] else { unreachable!("five names") };
    let images = start();
    // Somebody pulls one by hand, by another client; jobs use it too, even with a look at the registry.
    ensure(&Images::new(fixture.docker.clone()), theirs, PullPolicy::Missing, right()).await.unwrap();
    ensure(&images, theirs, PullPolicy::Always, right()).await.unwrap();
    let mut ids = Vec::new();
    for name in [old, recent, held, named] {
        ids.push(ensure(&images, name, PullPolicy::Missing, right()).await.unwrap().id);
    }
    // A container that does not run, and is nobody's of wharf.
    let body = ContainerCreateBody {
        image: Some(held.clone()),
        cmd: Some(vec!["x".to_owned()]),
        ..ContainerCreateBody::default()
    };
    fixture.docker.create_container(None::<CreateContainerOptions>, body).await.unwrap();
    let tag = TagImageOptionsBuilder::new().repo("mine").tag("1").build();
    fixture.docker.tag_image(named, Some(tag)).await.unwrap();
    assert_eq!(collected(&images, clock::now()).await, []);

    // Another process of the agent, a day later; one of them is of use just before.
    let images = start();
    let later = clock::now().plus(DAY + Duration::from_secs(60));
    images.book().touch(&ids[1], later);
    assert_eq!(collected(&images, later).await, [(ids[0].clone(), Why::Age)]);
    assert!(!is_there(&images, old).await);
    for name in [recent, held, named, theirs] {
        assert!(is_there(&images, name).await, "{name} was needed, or not ours");
    }
    // What has gone is pulled again as if it had never been here.
    ensure(&images, old, PullPolicy::Missing, right()).await.unwrap();

    // A full disk takes what is not needed, however young, but for what was of use a moment ago.
    let full = ImageRules { keep: None, high_percent: 0, ..ImageRules::default() };
    let gone = |images: Images, now| async move {
        let removed = images.collect(&full, Path::new("/"), now).await.unwrap();
        removed.into_iter().map(|image| (image.id, image.why)).collect::<Vec<_>>()
    };
    assert_eq!(gone(images.clone(), clock::now()).await, []);
    let mut pressed = gone(images.clone(), later.plus(Duration::from_secs(3600))).await;
    pressed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected = vec![(ids[0].clone(), Why::DiskPressure), (ids[1].clone(), Why::DiskPressure)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(pressed, expected);
    assert!(is_there(&images, held).await && is_there(&images, "mine:1").await && is_there(&images, theirs).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_pulled_by_its_digest_is_theirs_though_a_job_names_its_tag() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let name = fixture.publish("digest", 1, 1000).await;
    let others = Images::new(fixture.docker.clone());
    ensure(&others, &name, PullPolicy::Missing, right()).await.unwrap();
    let found = fixture.docker.inspect_image(&name).await.unwrap();
    let digest = found.repo_digests.unwrap_or_default().into_iter().next().expect("it came from a registry");
    let id = found.id.expect("it has one");
    fixture.remove(&id).await;
    ensure(&others, &digest, PullPolicy::Missing, right()).await.unwrap();
    assert!(!is_there(&others, &name).await, "it has no tag");

    let images = Images::remembering(fixture.docker.clone(), fixture.path("images.json"));
    ensure(&images, &name, PullPolicy::Missing, right()).await.unwrap();
    let later = clock::now().plus(DAY + Duration::from_secs(60));
    assert_eq!(collected(&images, later).await, []);
    assert!(is_there(&images, &digest).await);
    // What wharf has pulled stays its own, by whatever further names it pulls it.
    fixture.remove(&id).await;
    ensure(&images, &digest, PullPolicy::Missing, right()).await.unwrap();
    ensure(&images, &name, PullPolicy::Missing, right()).await.unwrap();
    assert_eq!(collected(&images, later.plus(DAY)).await, [(id, Why::Age)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_an_image_that_is_being_removed_waits_and_nobody_else_does() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let (leaves, stays) = (fixture.publish("leaves", 1, 1000).await, fixture.publish("stays", 1, 1000).await);
    let images = Images::new(fixture.docker.clone());
    let id = ensure(&images, &leaves, PullPolicy::Missing, right()).await.unwrap().id;
    let pulled = images.book().get(&id).cloned().expect("wharf pulled it");
    let leaving = images.takes_leave(Leaving { id: id.clone(), pulled });
    ensure(&images, &stays, PullPolicy::Missing, right()).await.unwrap();
    let waiting = ensure(&images, &leaves, PullPolicy::Missing, right());
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        answer = &mut waiting => panic!("it did not wait: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    fixture.remove(&id).await;
    drop(leaving);
    waiting.await.unwrap();
    assert!(is_there(&images, &leaves).await, "it is pulled again");
}
