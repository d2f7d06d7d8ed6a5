//! The numbers of a container's user, as dockerd will look them up at its start: from `/etc/passwd` and `/etc/group` in
//! it. Asked before the container runs, when there is no process to look at.

use super::daemon::{ANSWER_DEADLINE, Daemon};
use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use std::io::Read;
use tokio_stream::StreamExt;

/// A `passwd` of a million users is somebody's mistake.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// User and group numbers; `None` where the container does not know the name, with which it will not start either.
pub async fn owner(daemon: &Daemon, container: &str, user: &str) -> Option<(u32, u32)> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let passwd = match (name, group) {
        ("" | "root" | "0", "") => return Some((0, 0)),
        // Numbers that need no file.
        (name, group) if is_number(name) && is_number(group) => String::new(),
        _ => file(daemon, container, "/etc/passwd").await,
    };
    let groups = if group.is_empty() || is_number(group) {
        String::new()
    } else {
        file(daemon, container, "/etc/group").await
    };
    resolve(user, &passwd, &groups)
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

/// By Docker's rules: names before numbers, and a number that no line has is itself, with root's group.
fn resolve(user: &str, passwd: &str, groups: &str) -> Option<(u32, u32)> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let name = if name.is_empty() { "root" } else { name };
    let numbers = |line: &str| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?))
    };
    let named = |line: &&str| line.split(':').next() == Some(name);
    let by_number = |id: u32| passwd.lines().filter_map(numbers).find(|(uid, _)| *uid == id).unwrap_or((id, 0));
    let known = passwd.lines().find(named).and_then(numbers);
    let (uid, own_group) =
        known.or_else(|| name.parse().ok().map(by_number)).or_else(|| (name == "root").then_some((0, 0)))?;
    let of_name = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse::<u32>().ok())?
    };
    let gid = match group {
        "" => own_group,
        _ => groups.lines().find_map(of_name).or_else(|| group.parse().ok())?,
    };
    Some((uid, gid))
}

/// A file of a container, or nothing: it is not there, is a link, or is too big.
async fn file(daemon: &Daemon, container: &str, path: &str) -> String {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let of = container.to_owned();
    let download = |docker: bollard::Docker| async move {
        let mut chunks = Box::pin(docker.download_from_container(&of, Some(options)));
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            archive.extend_from_slice(&chunk?);
            if archive.len() > MAX_BYTES {
                break;
            }
        }
        Ok(archive)
    };
    match daemon.call("read a file of the container", container, ANSWER_DEADLINE, download).await {
        Ok(archive) => first_file(&archive).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, path, "looking for a container's user");
            String::new()
        }
    }
}

fn first_file(archive: &[u8]) -> Option<String> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up_as_docker_does() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n7:x:70:71::/:\n";
        let groups = "root:x:0:\nstaff:x:50:ada\nvideo:x:44:\n";
        for (user, owner) in [
            ("", Some((0, 0))),
            ("root", Some((0, 0))),
            ("ada", Some((1000, 1001))),
            ("1000", Some((1000, 1001))),
            ("ada:staff", Some((1000, 50))),
            ("ada:5", Some((1000, 5))),
            ("1234", Some((1234, 0))),
            ("1234:video", Some((1234, 44))),
            ("7", Some((70, 71))),
            ("bob", None),
            ("ada:nobody", None),
        ] {
            assert_eq!(resolve(user, passwd, groups), owner, "{user}");
        }
        assert_eq!(resolve("1:2", "", ""), Some((1, 2)));
        assert_eq!(resolve("", "", ""), Some((0, 0)));
    }
}
