//! `wharf store`: saved while the controller runs, moved to etcd and back under a running task, restored.

use crate::harness::cluster::wharf;
use crate::harness::job::quoted;
use crate::harness::{Cluster, Etcd, Output, Running, job, role, until};
use serde_json::Value;
use std::fs;

fn store(args: &[&str]) -> Output {
    let args: Vec<&str> = ["--json", "store"].iter().chain(args).copied().collect();
    Running::start(wharf(&args)).finish()
}

fn waiting(cluster: &Cluster, name: &str) -> Value {
    let command = format!("until [ -e {} ]; do sleep 0.02; done; exit 3", quoted(cluster.path("stop")));
    job(name, &[role("main", 1, &command)])
}

/// The jobs as they are shown, whatever takes time aside.
fn jobs(cluster: &Cluster) -> Value {
    cluster.json(&["jobs", "--all"])
}

#[test]
fn a_store_is_moved_to_etcd_and_back_under_a_running_task() {
    let etcd = Etcd::start(1);
    let cluster = Cluster::start(&["sim:4xH100"]);
    let id = cluster.submit(&waiting(&cluster, "long"));
    cluster.wait_running(&id);
    let ended = cluster.submit(&job("short", &[role("main", 1, "true")]));
    cluster.wait_end(&ended);
    let before = jobs(&cluster);
    let (file, shared) =
        (format!("sqlite:{}/c", cluster.folder().display()), format!("etcd:{}/wharf/", etcd.endpoints()[0]));

    let refused = store(&["move", "--from", &file, "--to", &shared]);
    assert_eq!(refused.code, 1);
    assert!(refused.errors().contains("in use by another wharf"), "{}", refused.errors());

    cluster.stop_controller();
    let moved = store(&["move", "--from", &file, "--to", &shared]).expect(0).json();
    assert!(moved["entries"].as_u64().unwrap() > 5, "{moved}");
    let again = store(&["move", "--from", &file, "--to", &shared]).expect(0).json();
    assert_eq!((&again["term"], &again["next_id"]), (&moved["term"], &moved["next_id"]), "it was done already");

    // Whoever starts on the old one is told where it went.
    let settings = cluster.path("controller.toml");
    let old = Running::start(wharf(&["controller", "--config", settings.to_str().unwrap()])).finish();
    assert_eq!(old.code, 3);
    assert!(old.errors().contains(&format!("it was moved to {shared}")), "{}", old.errors());

    let on_file = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{on_file}\n{}", etcd.settings())).unwrap();
    cluster.start_controller();
    cluster.wait_ready();
    assert_eq!(jobs(&cluster), before);
    let more = cluster.submit(&job("more", &[role("main", 1, "true")]));
    assert!(more.parse::<u64>().unwrap() >= moved["next_id"].as_u64().unwrap());
    cluster.wait_end(&more);
    let refused = store(&["move", "--from", &shared, "--to", &file]);
    assert!(refused.code == 1 && refused.errors().contains("is in use by"), "{}", refused.errors());

    let before = jobs(&cluster);
    cluster.stop_controller();
    let back = until("the lead is given back", || {
        Some(store(&["move", "--from", &shared, "--to", &file])).filter(|output| output.code == 0)
    });
    assert!(back.json()["term"].as_u64() > moved["term"].as_u64());
    fs::write(&settings, on_file).unwrap();
    cluster.start_controller();
    cluster.wait_ready();
    assert_eq!(jobs(&cluster), before);
    cluster.touch("stop");
    assert_eq!(cluster.wait_end(&id)["tasks"][0]["exit"]["code"], 3);
}

#[test]
fn a_restored_store_goes_on_above_what_was_given_out_since() {
    let cluster = Cluster::start(&["sim:4xH100"]);
    let id = cluster.submit(&waiting(&cluster, "long"));
    cluster.wait_running(&id);
    let file = cluster.path("saved");
    let (file, place) = (file.to_str().unwrap(), format!("sqlite:{}/c", cluster.folder().display()));
    let saved = store(&["backup", "--store", &place, file]).expect(0).json();
    assert!(
        saved["entries"].as_u64().unwrap() > 5 && saved["bytes"].as_u64() == Some(fs::metadata(file).unwrap().len())
    );
    let twice = store(&["backup", "--store", &place, file]);
    assert!(twice.code == 1 && twice.errors().contains("already"), "{}", twice.errors());

    // What was submitted since is forgotten; the controller has had another term as well.
    let since = cluster.submit(&job("since", &[role("main", 1, "true")]));
    cluster.wait_end(&since);
    cluster.stop_controller();
    cluster.start_controller();
    cluster.wait_ready();
    let refused = store(&["restore", "--store", &place, "--replace", file]);
    assert!(refused.errors().contains("in use by another wharf"), "{}", refused.errors());
    cluster.stop_controller();
    let refused = store(&["restore", "--store", &place, file]);
    assert!(refused.code == 1 && refused.errors().contains("--replace"), "{}", refused.errors());
    let mut cut = fs::read(file).unwrap();
    cut.truncate(cut.len() - 30);
    let damaged = cluster.path("damaged");
    fs::write(&damaged, cut).unwrap();
    let refused = store(&["restore", "--store", &place, "--replace", damaged.to_str().unwrap()]);
    assert!(refused.code == 1 && refused.errors().contains("nothing was changed"), "{}", refused.errors());

    let restored = store(&["restore", "--store", &place, "--replace", file]).expect(0).json();
    let since: u64 = since.parse().unwrap();
    assert!(restored["next_id"].as_u64().unwrap() > since, "{restored}");
    cluster.start_controller();
    cluster.wait_ready();
    let names: Vec<Value> = jobs(&cluster).as_array().unwrap().iter().map(|job| job["name"].clone()).collect();
    assert_eq!(names, ["long"]);
    let next = cluster.submit(&job("next", &[role("main", 1, "true")]));
    assert!(next.parse::<u64>().unwrap() > since);
    assert_eq!(cluster.wait_end(&next)["state"], "SUCCEEDED");
    cluster.touch("stop");
    assert_eq!(cluster.wait_end(&id)["tasks"][0]["exit"]["code"], 3);
}
