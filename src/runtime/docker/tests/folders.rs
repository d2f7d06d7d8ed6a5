//! A job's folders as a container has them: its code, its data, its output.

use super::*;
use crate::domain::container::{ContainerSpec, JobFiles};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Code as people keep it: readable by its owner alone, with a folder and a link.
fn code(place: &Place, owner: u32) -> PathBuf {
    let code = place.dir.path().join("code");
    std::fs::create_dir_all(code.join("sub")).unwrap();
    std::fs::write(code.join("train.sh"), "echo trained\n").unwrap();
    std::fs::write(code.join("sub/config"), "lr=1\n").unwrap();
    symlink("sub/config", code.join("link")).unwrap();
    for (path, mode) in [("train.sh", 0o700), ("sub/config", 0o600), ("sub", 0o700)] {
        std::fs::set_permissions(code.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(code.join(path), Some(owner), None).unwrap();
    }
    code
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn with_code(place: &Place, owner: u32, task: TaskSpec) -> TaskSpec {
    TaskSpec { files: JobFiles { code_dir: text_of(&code(place, owner)), ..JobFiles::default() }, ..task }
}

async fn prints(place: &Place, task: &TaskSpec, expected: &str) {
    let mut subject = place.start();
    let exit = subject.run(task).await;
    let (stdout, stderr) = output(&subject.runtime.log_dir(task.id));
    assert_eq!(text(&stdout), expected, "{exit:?}: {}", text(&stderr));
    assert!(exit.is_success(), "{exit:?}: {}", text(&stderr));
    subject.finish(task.id).await;
}

const USE_IT: &str = "pwd; sh train.sh; cat link; echo lr=2 >sub/config; cat link; echo new >>train.sh; \
    touch sub/made && rm sub/made && stat -c %u:%g train.sh sub sub/config; \
    (echo x >/pai/code/train.sh) 2>/dev/null || echo read-only";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_copied_for_the_images_user_and_stays_as_it_was() {
    let Some(place) = Place::new("docker: code_is_copied_for_the_images_user") else { return };
    let task = with_code(&place, 1000, TaskSpec { image: "wharf-test/user:1".into(), ..place.task(USE_IT) });
    let owners = "1000:1000\n".repeat(3);
    prints(&place, &task, &format!("/work\ntrained\nlr=1\nlr=2\n{owners}read-only\n")).await;
    let code = place.dir.path().join("code");
    assert_eq!(std::fs::read_to_string(code.join("sub/config")).unwrap(), "lr=1\n");
    assert_eq!(std::fs::read_to_string(code.join("train.sh")).unwrap(), "echo trained\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_copied_for_the_jobs_user() {
    let Some(place) = Place::new("docker: code_is_copied_for_the_jobs_user") else { return };
    let container = ContainerSpec { user: Some("4321:99".into()), ..ContainerSpec::default() };
    let image = "wharf-test/user:1".into();
    let task = with_code(&place, 4321, TaskSpec { image, container, ..place.task(USE_IT) });
    let owners = "4321:99\n".repeat(3);
    prints(&place, &task, &format!("/work\ntrained\nlr=1\nlr=2\n{owners}read-only\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_container_has_the_mounted_code_and_says_so() {
    let Some(place) = Place::new("docker: a_read_only_container_has_the_mounted_code") else { return };
    let container = ContainerSpec { read_only_root: true, ..ContainerSpec::default() };
    let script = "sh /pai/code/train.sh; ls train.sh 2>/dev/null; (echo x >/x) 2>/dev/null || echo read-only; \
        echo y >/tmp/y && cat /tmp/y";
    let task = with_code(&place, 0, TaskSpec { container, ..place.task(script) });
    let subject = place.start();
    let Notices(notices) = subject.runtime.prepare(&task, &[]).await.unwrap();
    assert!(notices.iter().any(|notice| notice.contains("codeDir is at /pai/code alone")), "{notices:?}");
    subject.runtime.remove(task.id).await.unwrap();
    drop(subject);
    prints(&place, &task, "trained\nread-only\ny\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_read_and_output_is_kept() {
    let Some(place) = Place::new("docker: data_is_read_and_output_is_kept") else { return };
    let (data, result) = (place.dir.path().join("data"), place.dir.path().join("results/of/job"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("set"), "1 2 3\n").unwrap();
    let script = format!(
        "cat {0}/set; (echo x >{0}/set) 2>/dev/null || echo read-only; echo 42 >{1}/answer && echo kept",
        data.display(),
        result.display()
    );
    let files = JobFiles { data_dir: text_of(&data), output_dir: text_of(&result), ..JobFiles::default() };
    let task = TaskSpec { image: "wharf-test/user:1".into(), files, ..place.task(&script) };
    prints(&place, &task, "1 2 3\nread-only\nkept\n").await;
    let answer = result.join("answer");
    assert_eq!(std::fs::read_to_string(&answer).unwrap(), "42\n");
    assert_eq!(std::fs::metadata(&answer).unwrap().uid(), 1000);
    assert_eq!(std::fs::read_to_string(data.join("set")).unwrap(), "1 2 3\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wharfs_own_folders_are_no_jobs() {
    let Some(place) = Place::new("docker: wharfs_own_folders_are_no_jobs") else { return };
    let subject = place.start();
    let own = [place.dir.path().join("state"), place.dockerd.socket.with_file_name("root"), PathBuf::from("/etc")];
    for dir in own {
        let files = JobFiles { data_dir: text_of(&dir), ..JobFiles::default() };
        let task = TaskSpec { files, ..place.task("true") };
        let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
        let said = ["dataDir: is given to no job", "policy.mounts"].iter().any(|why| refused.message.contains(why));
        assert!(refused.user_error && said, "{refused}");
        place.assert_nothing_left(task.id);
    }
    subject.finish(place.task("").id).await;
}
