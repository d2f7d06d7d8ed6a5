//! A create that misses its deadline and is carried out all the same.

use super::*;
use crate::runtime::contract::{Subject, wait_until};
use nix::sys::signal::Signal;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Stands between a runtime and dockerd, and looks at what is asked.
#[derive(Clone)]
struct Between {
    dockerd: PathBuf,
    /// The first lines of all requests.
    asked: Arc<Mutex<Vec<String>>>,
    /// A create waits here until it is true.
    pass: watch::Receiver<bool>,
    /// Told before a create is passed on.
    on_create: Arc<dyn Fn() + Send + Sync>,
}

impl Between {
    fn listen(self, socket: &std::path::Path) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(self.clone().carry(client));
            }
        })
    }

    async fn carry(mut self, client: UnixStream) {
        let Ok(server) = UnixStream::connect(&self.dockerd).await else { return };
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move {
            tokio::io::copy(&mut from_server, &mut to_client).await.ok();
        });
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read) = from_client.read(&mut bytes).await {
            if read == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&bytes[..read]).lines().next().unwrap_or_default().to_owned();
            let creates = line.starts_with("POST") && line.contains("/containers/create");
            self.asked.lock().unwrap().push(line);
            if creates {
                (self.on_create)();
                // Passed on also if whoever asked has given up: dockerd has read it by then.
                if self.pass.wait_for(|pass| *pass).await.is_err() {
                    return;
                }
            }
            if to_server.write_all(&bytes[..read]).await.is_err() {
                break;
            }
        }
        to_server.shutdown().await.ok();
    }
}

fn start(place: &Place, socket: &std::path::Path) -> Subject {
    let (sender, events) = mpsc::channel(16);
    let config =
        DockerConfig { socket: socket.to_owned(), create_deadline: Duration::from_millis(300), ..place.config() };
    Subject { runtime: Arc::new(DockerRuntime::new(config, sender).unwrap()), events }
}

/// Prepares a task; it must not be said to have failed while its container may still come. `wake` lets it come.
async fn comes_late(
    place: &Place,
    on_create: Arc<dyn Fn() + Send + Sync>,
    pass: watch::Receiver<bool>,
    wake: impl Fn(),
) {
    let socket = place.dir.path().join("between.sock");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let between = Between { dockerd: place.dockerd.socket.clone(), asked: asked.clone(), pass, on_create };
    let listening = between.listen(&socket);
    let saw = |begin: &str, part: &str| {
        asked.lock().unwrap().iter().any(|line| line.starts_with(begin) && line.contains(part))
    };
    let subject = start(place, &socket);
    let task = place.task("echo ran");
    let preparing = {
        let (runtime, task) = (subject.runtime.clone(), task.clone());
        tokio::spawn(async move { runtime.prepare(&task, &[]).await })
    };
    wait_until("the request", || saw("POST", "/containers/create")).await;
    tokio::pin!(preparing);
    let early = tokio::time::timeout(Duration::from_millis(1500), &mut preparing).await;
    assert!(early.is_err(), "dockerd has not decided: {early:?}");
    wake();
    let failed = preparing.await.unwrap().unwrap_err();
    assert!(!failed.user_error && failed.message.contains("nothing came back within 0.3 s"), "{failed}");
    assert!(saw("DELETE", "/containers/"), "it was made, and removed");
    place.assert_nothing_left(task.id);
    assert!(!place.task_dir(task.id).exists());
    // The next attempt is not in its way.
    drop(listening);
    let mut subject = Subject { runtime: place.start().runtime, ..subject };
    subject.runtime.remove(task.id).await.unwrap();
    subject.events.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_comes_after_the_deadline_is_removed() {
    let Some(place) = Place::new("docker: a_container_that_comes_after_the_deadline") else { return };
    let (open, pass) = watch::channel(false);
    comes_late(&place, Arc::new(|| {}), pass, || {
        open.send_replace(true);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dockerd_that_stops_during_create_leaves_nothing_when_it_wakes() {
    let test = "docker: a_dockerd_that_stops_during_create_leaves_nothing";
    let Some(place) = Dockerd::own(test).map(Place::beside) else { return };
    let pid = nix::unistd::Pid::from_raw(place.dockerd.pid());
    let stop = move || nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    let (_open, pass) = watch::channel(true);
    comes_late(&place, Arc::new(stop), pass, || place.dockerd.signal(Signal::SIGCONT)).await;
}
