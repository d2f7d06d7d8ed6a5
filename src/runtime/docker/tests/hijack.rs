//! Images and folders that try to have something of theirs run, or mounted, before they were looked at.

use super::*;
use crate::domain::container::{ContainerSpec, JobFiles};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// An image of busybox with more files, made by a script in its folder.
pub struct Image<'a> {
    place: &'a Place,
    pub name: String,
}

impl<'a> Image<'a> {
    pub fn of(place: &'a Place, script: &str, changes: &[&str]) -> Self {
        let (name, tree) = (format!("wharf-hijack/{}:1", place.node_uid), place.dir.path().join("tree"));
        let host = format!("unix://{}", place.dockerd.socket.display());
        let changes: String = changes.iter().map(|change| format!(" --change '{change}'")).collect();
        let script = format!(
            "set -e; mkdir -p {0}; cd {0}; mkdir bin etc tmp; cp $(command -v busybox) bin/busybox
             for applet in sh cat id mkdir stat ls rm touch sleep; do ln -s busybox bin/$applet; done
             {script}
             tar -c . | docker -H {host} import{changes} - {name} >/dev/null; rm -rf {0}",
            tree.display()
        );
        let made = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        Self { place, name }
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        let host = format!("unix://{}", self.place.dockerd.socket.display());
        Command::new("docker").args(["-H", &host, "rmi", "-f", &self.name]).output().ok();
    }
}

/// A folder for everybody.
pub fn open_folder(place: &Place, name: &str) -> PathBuf {
    let folder = place.dir.path().canonicalize().unwrap().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

pub fn output_in(folder: &Path) -> JobFiles {
    JobFiles { output_dir: folder.to_string_lossy().into_owned(), ..JobFiles::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_images_program_in_the_shims_place_is_not_run() {
    let Some(place) = Place::new("docker: an_images_program_in_the_shims_place") else { return };
    let folder = open_folder(&place, "out");
    let script = format!(
        "mkdir -p .wharf a/b; ln -s /.wharf a/b/zz
         printf '#!/bin/sh\\necho it >{}/ran\\nsleep 60\\n' >.wharf/wharf-shim; chmod 755 .wharf/wharf-shim",
        folder.display()
    );
    let image = Image::of(&place, &script, &["VOLUME /a/b/zz"]);
    let mut subject = place.start();
    let command = format!("cat /.wharf/wharf-shim; echo done >{}/end", folder.display());
    let task = TaskSpec { image: image.name.clone(), files: output_in(&folder), ..place.task(&command) };
    let exit = subject.run(&task).await;
    let (stdout, stderr) = output(&subject.runtime.log_dir(task.id));
    assert!(exit.is_success(), "{exit:?}: {}", text(&stderr));
    assert!(text(&stdout).contains("echo it"), "its volume hides our folder: else nothing is tried");
    assert!(folder.join("end").exists() && !folder.join("ran").exists());
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_hides_everything_is_not_run() {
    let Some(place) = Place::new("docker: an_image_that_hides_everything") else { return };
    let folder = open_folder(&place, "out");
    let image = Image::of(&place, "mkdir -p a/b; ln -s / a/b/zz", &["VOLUME /a/b/zz"]);
    let subject = place.start();
    let task = TaskSpec { image: image.name.clone(), files: output_in(&folder), ..place.task("true") };
    subject.runtime.prepare(&task, &[]).await.unwrap_err();
    place.assert_nothing_left(task.id);
    subject.finish(task.id).await;
}

/// A way to dockerd on which something is done when it is asked to make a container.
fn between(place: &Place, then: impl Fn() + Send + Sync + 'static) -> PathBuf {
    let (way, dockerd) = (place.dir.path().join("way.sock"), place.dockerd.socket.clone());
    let listener = UnixListener::bind(&way).unwrap();
    let then = Arc::new(then);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&dockerd) else { return };
            let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut answers, &mut to_client).ok();
                to_client.shutdown(std::net::Shutdown::Both).ok();
            });
            let then = then.clone();
            std::thread::spawn(move || forward(client, server, &*then));
        }
    });
    way
}

fn forward(mut from: UnixStream, mut to: UnixStream, then: &dyn Fn()) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        if text(&buffer[..read]).contains("/containers/create") {
            then();
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    to.shutdown(std::net::Shutdown::Both).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_while_dockerd_is_asked_stays_what_it_was() {
    let Some(place) = Place::new("docker: a_folder_that_is_swapped") else { return };
    let (folder, other) = (open_folder(&place, "out"), open_folder(&place, "other"));
    let (from, aside, link) = (folder.clone(), folder.with_file_name("aside"), other.clone());
    let socket = between(&place, move || {
        std::fs::rename(&from, &aside).unwrap();
        symlink(&link, &from).unwrap();
    });
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig { socket, ..place.config() };
    let runtime = Arc::new(DockerRuntime::new(config, sender).unwrap());
    let mut subject = crate::runtime::contract::Subject { runtime, events };
    let container = ContainerSpec { user: Some("1234:1234".into()), ..ContainerSpec::default() };
    let command = format!("echo of-the-job >{}/file", folder.display());
    let task = TaskSpec { files: output_in(&folder), container, ..place.task(&command) };
    let exit = subject.run(&task).await;
    assert!(exit.is_success(), "{exit:?}");
    let written = std::fs::read_to_string(folder.with_file_name("aside").join("file")).unwrap();
    assert_eq!((written.as_str(), other.join("file").exists()), ("of-the-job\n", false));
    let left = std::fs::read_dir(place.dir.path().join("state/pinned")).unwrap().count();
    assert_eq!(left, 0, "nothing stays mounted");
    subject.finish(task.id).await;
}

/// A mount that ends with the test, however that ends.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).output().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mounted_in_a_folder_meanwhile_is_not_reached() {
    let Some(place) = Place::new("docker: what_is_mounted_in_a_folder_meanwhile") else { return };
    let (data, secret) = (open_folder(&place, "data"), open_folder(&place, "secret"));
    std::fs::create_dir(data.join("sub")).unwrap();
    std::fs::write(data.join("set"), "of the job\n").unwrap();
    std::fs::write(secret.join("file"), "of nobody\n").unwrap();
    // The image has the folder's mount elsewhere.
    let script = format!("mkdir -p elsewhere .{}; ln -s /elsewhere .{}", place.dir.path().display(), data.display());
    let image = Image::of(&place, &script, &[]);
    let bound = Bound(data.join("sub"));
    let (from, to) = (secret.clone(), bound.0.clone());
    let socket = between(&place, move || {
        assert!(Command::new("mount").arg("--bind").args([&from, &to]).status().unwrap().success());
    });
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig { socket, refused_dirs: vec![secret], ..place.config() };
    let runtime = Arc::new(DockerRuntime::new(config, sender).unwrap());
    let mut subject = crate::runtime::contract::Subject { runtime, events };
    let files = JobFiles { data_dir: data.to_string_lossy().into_owned(), ..JobFiles::default() };
    let command = format!("cat {0}/set /elsewhere/set; cat {0}/sub/file 2>/dev/null || echo nothing", data.display());
    let task = TaskSpec { image: image.name.clone(), files, ..place.task(&command) };
    assert!(subject.run(&task).await.is_success());
    assert_eq!(text(&output(&subject.runtime.log_dir(task.id)).0), "of the job\nof the job\nnothing\n");
    assert!(bound.0.join("file").exists(), "else nothing is tried");
    subject.finish(task.id).await;
}
