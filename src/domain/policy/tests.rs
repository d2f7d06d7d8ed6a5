//! Each rule with what breaks it, and what is within it.

use super::*;

fn refused(policy: &Policy, asked: &Asked) -> Vec<Refusal> {
    policy.check(asked).expect_err("it is refused")
}

fn text(list: &[&str]) -> Vec<String> {
    list.iter().map(|&it| it.to_owned()).collect()
}

#[test]
fn every_refusal_names_its_rule_and_where_it_is_set() {
    let policy = Policy {
        file: "/etc/wharf/agent.toml".into(),
        host_network: false,
        devices: Vec::new(),
        images: vec![ImagePattern::parse("registry.local/*").unwrap()],
        ..Policy::default()
    };
    let asked = Asked {
        image: Some(("docker.io/library/python:3".into(), "python:3".into())),
        host_network: true,
        capabilities: text(&["CHOWN", "SYS_ADMIN", "BPF"]),
        priorities: vec![("nice".into(), 40), ("rtprio".into(), 0)],
        pids: None,
        ports: vec![22, 8080],
        devices: text(&["/dev/infiniband"]),
        never: text(&["privileged"]),
    };
    let refusals = refused(&policy, &asked);
    let rules: Vec<_> = refusals.iter().map(|refusal| refusal.rule).collect();
    assert_eq!(
        rules,
        [
            "",
            "policy.host_network",
            "policy.images",
            "policy.capabilities",
            "policy.capabilities",
            "policy.ports",
            "policy.devices"
        ]
    );
    for refusal in refusals.iter().skip(1) {
        let said = refusal.to_string();
        assert!(said.contains(&format!("/etc/wharf/agent.toml: {}", refusal.rule)), "{said}");
    }
    let said = refusals[3].to_string();
    assert!(said.contains("SYS_ADMIN, BPF") && said.contains("SYS_CHROOT"), "{said}");
}

#[test]
fn what_the_rules_allow_is_allowed() {
    let policy = Policy {
        capabilities: text(&["SYS_ADMIN", "SYS_NICE"]),
        images: vec![ImagePattern::parse("python:*").unwrap()],
        ..Policy::default()
    };
    let asked = Asked {
        image: Some(("docker.io/library/python:3".into(), "python:3".into())),
        host_network: true,
        capabilities: text(&["CHOWN", "SYS_ADMIN"]),
        priorities: vec![("nice".into(), 40)],
        pids: None,
        ports: vec![8080],
        devices: text(&["/dev/infiniband"]),
        never: Vec::new(),
    };
    assert_eq!(policy.check(&asked), Ok(()));
    assert_eq!(Policy::default().check(&Asked::default()), Ok(()));
}

#[test]
fn no_rule_allows_the_nodes_namespaces() {
    let all = Policy { capabilities: text(&["SYS_ADMIN"]), users: Some(UserIds::all()), ..Policy::default() };
    let asked = Asked { never: text(&["privileged", "PidMode=host"]), ..Asked::default() };
    let refusals = refused(&all, &asked);
    assert_eq!(refusals.len(), 2);
    assert!(refusals[1].to_string().contains("PidMode=host"), "{}", refusals[1]);
}

#[test]
fn processes_are_not_root_unless_it_is_said() {
    let usual = Policy::default();
    assert!(usual.check_user(RunsAs::Process(0)).unwrap_err().to_string().contains("policy.users"));
    for runs_as in [RunsAs::Process(1), RunsAs::Container(0), RunsAs::Container(1000)] {
        assert_eq!(usual.check_user(runs_as), Ok(()));
    }
    let some = Policy { users: Some(UserIds::parse(["0", "1000-1999"]).unwrap()), ..Policy::default() };
    for uid in [0, 1000, 1999] {
        assert_eq!(some.check_user(RunsAs::Process(uid)), Ok(()));
        assert_eq!(some.check_user(RunsAs::Container(uid)), Ok(()));
    }
    for refused in [RunsAs::Process(1), RunsAs::Container(2000)] {
        let said = some.check_user(refused).unwrap_err().to_string();
        assert!(said.contains("uid 0, 1000-1999"), "{said}");
    }
    assert!(some.allows_root() && usual.allows_root());
    assert!(!Policy { users: Some(UserIds::parse(["1-9"]).unwrap()), ..usual }.allows_root());
}

#[test]
fn groups_are_those_of_images_and_users_unless_it_is_said() {
    let ranges = |list: &[&str]| Some(UserIds::parse(list.iter().copied()).unwrap());
    let usual = Policy::default();
    assert_eq!(usual.check_groups(RunsAs::Container(1000), &[0, 100, 5000]), Ok(()));
    assert_eq!(usual.check_groups(RunsAs::Process(1000), &[1000, 27]), Ok(()));
    assert_eq!(usual.check_groups(RunsAs::Process(0), &[0, 1]), Ok(()));
    let said = usual.check_groups(RunsAs::Process(1000), &[1000, 0]).unwrap_err().to_string();
    assert!(said.contains("agent.toml: policy.groups") && said.contains("gid 0"), "{said}");
    let users = Policy { users: ranges(&["1000-1999"]), ..usual.clone() };
    assert_eq!(users.check_groups(RunsAs::Container(1000), &[0, 44, 1500]), Ok(()));
    let said = users.check_groups(RunsAs::Container(1000), &[100, 2000]).unwrap_err().to_string();
    assert!(said.contains("gid 2000") && said.contains("gid 0-999, 1000-1999"), "{said}");
    let groups = Policy { groups: ranges(&["100"]), ..usual };
    for runs_as in [RunsAs::Container(0), RunsAs::Container(1000), RunsAs::Process(1000)] {
        assert_eq!(groups.check_groups(runs_as, &[100]), Ok(()));
        let said = groups.check_groups(runs_as, &[100, 0]).unwrap_err().to_string();
        assert!(said.contains("gid 0") && said.contains("gid 100"), "{said}");
    }
}

#[test]
fn no_task_has_more_processes_than_the_node_gives() {
    let policy = Policy { pids: Some(100), ..Policy::default() };
    let asking = |pids| Asked { pids, ..Asked::default() };
    for pids in [None, Some(1), Some(100)] {
        assert_eq!(policy.check(&asking(pids)), Ok(()));
        assert_eq!(Policy::default().check(&asking(pids)), Ok(()));
    }
    let said = refused(&policy, &asking(Some(101)))[0].to_string();
    assert!(
        said.contains("agent.toml: pids_limit") && said.contains("pidsLimit") && said.contains("at most 100"),
        "{said}"
    );
}
