//! Files that OpenSSH reads: who is known by which name, and how a server in a container behaves. Old versions read
//! them too (6.5 of 2014, the first with Ed25519), so every word is one that they know.

use super::alias;
use std::fmt::Write;

/// Roles and tasks beyond this are not listed: the file is read at every connection.
const MAX_HOSTS: usize = 20_000;

/// A task as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `ROLE-INDEX`.
    pub name: String,
    pub address: String,
    pub port: u16,
}

/// All tasks of a job, from the environment of any of them. What the job has put there instead and is no address or
/// port is left out.
pub fn hosts(env: &[(String, String)]) -> Vec<Host> {
    let variables: std::collections::HashMap<&str, &str> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let value = |name: String| variables.get(name.as_str()).copied();
    let mut found = Vec::new();
    for role in value("PAI_TASK_ROLE_LIST".to_owned()).unwrap_or_default().split(',').filter(|role| is_name(role)) {
        let count = value(format!("PAI_TASK_ROLE_TASK_COUNT_{role}")).and_then(|count| count.parse().ok());
        for index in 0..count.unwrap_or(0).min(MAX_HOSTS) {
            let address = value(format!("PAI_HOST_IP_{role}_{index}")).filter(|address| is_name(address));
            let ports = value(format!("PAI_PORT_LIST_{role}_{index}_ssh"));
            let port = ports.and_then(|ports| ports.split(',').next()?.parse().ok());
            if let (Some(address), Some(port)) = (address, port) {
                found.push(Host { name: format!("{role}-{index}"), address: address.to_owned(), port });
            }
        }
    }
    found.truncate(MAX_HOSTS);
    found
}

/// No blanks, no quotes, no line ends: nothing that is more than one word of a configuration.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:".contains(c))
}

/// The client's configuration in a task, whose files are in `folder`. A peer may be some seconds from listening.
pub fn of_tasks(job_id: u64, folder: &str, hosts: &[Host]) -> String {
    let mut text = "# The tasks of this job. Written by wharf for each run.\n".to_owned();
    for Host { name, address, port } in hosts {
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "\nHost {name}\n    HostName {address}\n    Port {port}\n    IdentityFile {folder}/id\n    \
             IdentitiesOnly yes\n    HostKeyAlias {}\n    UserKnownHostsFile {folder}/known_hosts\n    \
             StrictHostKeyChecking yes\n    ConnectionAttempts 30\n    LogLevel ERROR\n",
            alias(job_id)
        );
    }
    text
}

/// The host key of a job's tasks, for a client.
pub fn known_hosts(job_id: u64, host_key: &str) -> String {
    format!("{} {host_key}\n", alias(job_id))
}

/// For an sshd in a container: nobody gets in without the job's key, whatever the image's own configuration says. Every
/// session goes through `session`, which gives it the task's environment: that is longer, and its values are freer, than
/// what sshd takes by any of its own ways.
pub fn sshd_config(folder: &str, session: &str) -> String {
    format!(
        "HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nForceCommand {session}\n\
         PermitRootLogin yes\nPubkeyAuthentication yes\nPasswordAuthentication no\n\
         ChallengeResponseAuthentication no\nKbdInteractiveAuthentication no\nHostbasedAuthentication no\n\
         PermitUserEnvironment no\nStrictModes no\nUseDNS no\nPrintMotd no\nX11Forwarding no\nPidFile none\n\
         MaxStartups 1000\nMaxSessions 1000\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_task_is_a_host_by_role_and_index() {
        let env = env(&[
            ("PAI_TASK_ROLE_LIST", "ps.a,worker"),
            ("PAI_TASK_ROLE_TASK_COUNT_ps.a", "1"),
            ("PAI_HOST_IP_ps.a_0", "10.0.0.5"),
            ("PAI_PORT_LIST_ps.a_0_ssh", "20002,20003"),
            ("PAI_TASK_ROLE_TASK_COUNT_worker", "2"),
            ("PAI_HOST_IP_worker_0", "fd00::1"),
            ("PAI_PORT_LIST_worker_0_ssh", "20004"),
            ("PAI_HOST_IP_worker_1", "10.0.0.6"),
            ("PAI_PORT_LIST_worker_1_ssh", "none"),
        ]);
        let found = hosts(&env);
        assert_eq!(found.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["ps.a-0", "worker-0"]);
        assert_eq!(found[0], Host { name: "ps.a-0".into(), address: "10.0.0.5".into(), port: 20002 });
        let text = of_tasks(7, "/.wharf/ssh", &found);
        assert!(text.contains("\nHost worker-0\n    HostName fd00::1\n    Port 20004\n"), "{text}");
        assert!(text.contains("HostKeyAlias wharf-job-7\n"), "{text}");
    }

    #[test]
    fn a_job_cannot_write_lines_of_its_own() {
        let env = env(&[
            ("PAI_TASK_ROLE_LIST", "a,b\nProxyCommand x"),
            ("PAI_TASK_ROLE_TASK_COUNT_a", "99999999999999999999"),
            ("PAI_TASK_ROLE_TASK_COUNT_b\nProxyCommand x", "1"),
            ("PAI_HOST_IP_a_0", "1\nProxyCommand x"),
            ("PAI_PORT_LIST_a_0_ssh", "1"),
        ]);
        assert_eq!(hosts(&env), []);
    }
}
