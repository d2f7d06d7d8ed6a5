//! Licences, sources and versions of everything that is built, as `cargo metadata` tells them, against `deny.toml`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn rules() -> toml::Table {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    std::fs::read_to_string(path).expect("deny.toml is there").parse().expect("deny.toml is TOML")
}

fn list(rules: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    let found = rules[section][key].as_array().unwrap_or_else(|| panic!("{section}.{key} is a list"));
    found.iter().map(|entry| entry.as_str().expect("of texts").to_owned()).collect()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

/// What is built for this machine, with everything that builds and tests it.
fn packages() -> Vec<Value> {
    let said = output("rustc", &["-vV"]);
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says its host");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let text = output(&cargo, &["metadata", "--locked", "--format-version", "1", "--filter-platform", host]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata is JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("there is a graph");
    let built: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().expect("a list").iter();
    let packages: Vec<Value> =
        all.filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id))).cloned().collect();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// An expression of SPDX, with the older `/` for OR: the licences that are left if only these are allowed; `None` if
/// that is not enough.
fn licences(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Option<BTreeSet<String>> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "-WITH-");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let found = either(&mut rest, allowed);
    assert!(rest.is_empty(), "'{expression}' is no expression of licences");
    found
}

type Left = Option<BTreeSet<String>>;

fn either(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Left {
    let mut found = both(rest, allowed);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        let other = both(rest, allowed);
        found = found.or(other);
    }
    found
}

fn both(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Left {
    let mut found = one(rest, allowed);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        let other = one(rest, allowed);
        found = found.zip(other).map(|(found, other)| found.union(&other).cloned().collect());
    }
    found
}

fn one(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Left {
    let (first, others) = rest.split_first().expect("an expression goes on after its operator");
    *rest = others;
    if *first == "(" {
        let found = either(rest, allowed);
        assert_eq!(rest.first(), Some(&")"), "a parenthesis is closed");
        *rest = &rest[1..];
        return found;
    }
    allowed(first).then(|| BTreeSet::from([(*first).to_owned()]))
}

#[test]
fn expressions_of_licences_are_understood() {
    let mit = |name: &str| name == "MIT";
    let is_enough = |expression: &str| licences(expression, &mit).is_some();
    assert!(
        ["MIT", "MIT OR GPL-3.0", "GPL-3.0 OR MIT", "Apache-2.0/MIT", "(MIT OR X) AND MIT"]
            .iter()
            .all(|e| is_enough(e))
    );
    assert!(["GPL-3.0", "MIT AND X", "X OR (MIT AND Y)", "MIT WITH z"].iter().all(|e| !is_enough(e)));
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let allowed = list(&rules(), "licenses", "allow");
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for package in packages() {
        let (name, expression) = (&package["name"], package["license"].as_str().unwrap_or_default());
        let found = if expression.is_empty() { None } else { licences(expression, &|name| allowed.contains(name)) };
        match found {
            Some(found) => used.extend(found),
            None => wrong.push(format!("{name}: '{expression}'")),
        }
    }
    assert_eq!(wrong, [""; 0], "licences that deny.toml does not allow");
    let unused: Vec<&String> = allowed.difference(&used).collect();
    assert!(unused.is_empty(), "deny.toml allows {unused:?}, which nothing needs");
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let allowed = list(&rules(), "sources", "allow-registry");
    let own = env!("CARGO_PKG_NAME");
    let wrong: Vec<String> = packages()
        .iter()
        .filter(|package| {
            let source = package["source"].as_str().unwrap_or_default();
            let known = source.strip_prefix("registry+").is_some_and(|registry| allowed.contains(registry));
            !known && package["name"] != own
        })
        .map(|package| format!("{}: {}", package["name"], package["source"]))
        .collect();
    assert_eq!(wrong, [""; 0], "sources that deny.toml does not allow");
}

#[test]
fn no_version_is_left_open_and_several_of_one_are_told() {
    let packages = packages();
    let own = packages.iter().find(|package| package["name"] == env!("CARGO_PKG_NAME")).expect("it is ours");
    let dependencies = own["dependencies"].as_array().expect("a list");
    assert!(!dependencies.is_empty());
    let open: Vec<&Value> = dependencies.iter().filter(|one| one["req"] == "*").map(|one| &one["name"]).collect();
    assert!(open.is_empty(), "any version would do of {open:?}");
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &packages {
        let text = |key: &str| package[key].as_str().expect("it is a text");
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    // What others ask for is theirs: a warning, as deny.toml says.
    for (name, several) in versions.iter().filter(|(_, several)| several.len() > 1) {
        eprintln!("warning: several versions of {name}: {several:?}");
    }
}
