//! Reads the sources and keeps the directions of dependency that `src/lib.rs` draws: who may name whom, and which
//! outside things are named in one place only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file without its tests: path below `src`, and its lines with comments and texts taken out.
struct Source {
    path: String,
    lines: Vec<String>,
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&source_folder(), &mut found);
    assert!(found.len() > 50, "only {} files under src", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("src can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(source_folder()).expect("it is below").display().to_string();
            let is_test = name.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "testing.rs" | "testing"));
            if is_test || name.ends_with("_tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            found.push(Source { path: name, lines: code_lines(&text) });
        }
    }
}

/// Up to the file's tests, which come last; what a line says after `//` or inside of a text is no code.
fn code_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        let tests_follow = rest.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if line.trim() == "#[cfg(test)]" && tests_follow {
            break;
        }
        lines.push(without_texts(line));
    }
    lines
}

fn without_texts(line: &str) -> String {
    let mut result = String::new();
    let mut inside = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if inside => drop(characters.next()),
            '"' => inside = !inside,
            '/' if !inside && characters.peek() == Some(&'/') => break,
            _ if inside => {}
            _ => result.push(character),
        }
    }
    result
}

impl Source {
    fn top(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Lines that hold `path` as a path or a macro of its own, not as a part of a longer name.
    fn names(&self, path: &str) -> Vec<String> {
        let whole = |line: &str, at: usize| {
            let before = line[..at].chars().next_back();
            let after = line[at + path.len()..].chars().next();
            let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !is_word(before) && !is_word(after)
        };
        let holds = |line: &&String| line.match_indices(path).any(|(at, _)| whole(line, at));
        self.lines.iter().filter(holds).map(|line| format!("{}: {}", self.path, line.trim())).collect()
    }
}

/// Everything that the files in `of` say about `what`, except in places that begin with one of `allowed`.
fn offenders(sources: &[Source], of: &[&str], what: &[&str], allowed: &[&str]) -> Vec<String> {
    let concerned = |source: &&Source| of.is_empty() || of.contains(&source.top());
    let free = |source: &&Source| !allowed.iter().any(|place| source.path.starts_with(place));
    sources
        .iter()
        .filter(concerned)
        .filter(free)
        .flat_map(|source| what.iter().flat_map(|path| source.names(path)))
        .collect()
}

#[track_caller]
fn none(offenders: Vec<String>, rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

/// Decide, and do nothing.
const PURE: [&str; 5] = ["domain", "health", "jobfile", "scheduler", "sim"];

#[test]
fn tls_is_the_wires_alone() {
    let outside = ["rustls", "tokio_rustls", "rcgen", "x509_parser"];
    none(offenders(&sources(), &[], &outside, &["rpc/"]), "TLS and certificates belong to rpc");
    // Hashes and chance of tokens; what seals secrets.
    let uses = ["ring::digest", "ring::rand", "ring::aead", "ring::hmac"];
    let allowed = ["rpc/", "controller/access/", "store/sealed.rs"];
    none(offenders(&sources(), &[], &uses, &allowed), "cryptography has three places");
}

#[test]
fn the_reader_sees_code_and_nothing_else() {
    let text = "//! tokio\nuse tokio::sync; // tonic\nlet a = \"rand \\\" nix\";\n#[cfg(test)]\nfn f() {}\nuse libc;\n\
        #[cfg(test)]\nmod tests {\n use bollard;\n}\n";
    let source = Source { path: "domain/x.rs".into(), lines: code_lines(text) };
    let sees = |path: &str| !source.names(path).is_empty();
    assert!(sees("tokio") && sees("libc") && sees("tokio::sync"));
    assert!(["tonic", "rand", "nix", "bollard", "toki", "kio"].iter().all(|path| !sees(path)), "{:?}", source.lines);
    assert_eq!(offenders(&[source], &["domain"], &["tokio"], &[]).len(), 1);
}

#[test]
fn pure_folders_do_no_io_and_know_no_time() {
    let outside = [
        "tokio",
        "tokio_util",
        "tokio_stream",
        "tonic",
        "prost",
        "bollard",
        "nvml_wrapper",
        "rusqlite",
        "hyper_util",
        "tower",
        "rand",
        "nix",
        "libc",
        "SystemTime",
        "Instant",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "uuid::Uuid::new_v4",
        "uuid::Uuid::now_v7",
    ];
    none(offenders(&sources(), &PURE, &outside, &[]), "pure folders take time, ids and randomness as arguments");
}

#[test]
fn folders_name_only_what_lies_below_them() {
    // Who may not name whom, from the bottom up.
    let rules: [(&[&str], &[&str]); 11] = [
        (&["jobfile", "scheduler", "api", "agent", "controller", "rpc"], &["sim"]),
        (
            &["domain"],
            &[
                "health",
                "jobfile",
                "scheduler",
                "sim",
                "api",
                "gpu",
                "runtime",
                "shim",
                "store",
                "logs",
                "agent",
                "controller",
                "rpc",
                "cli",
                "config",
                "telemetry",
            ],
        ),
        (&["jobfile", "scheduler", "sim"], &["health"]),
        (&["health"], &["jobfile", "scheduler", "sim"]),
        (
            &["health", "jobfile", "scheduler", "sim"],
            &[
                "api",
                "gpu",
                "runtime",
                "shim",
                "store",
                "logs",
                "agent",
                "controller",
                "rpc",
                "cli",
                "config",
                "telemetry",
            ],
        ),
        (
            &["api"],
            &[
                "health",
                "jobfile",
                "scheduler",
                "gpu",
                "runtime",
                "shim",
                "store",
                "logs",
                "agent",
                "controller",
                "rpc",
                "cli",
                "config",
            ],
        ),
        (
            &["gpu", "runtime", "store", "logs", "shim"],
            &["health", "jobfile", "scheduler", "agent", "controller", "rpc", "cli", "config"],
        ),
        // Sources of observations: what they mean is said elsewhere.
        (
            &["kernel_log", "host"],
            &[
                "jobfile",
                "scheduler",
                "sim",
                "api",
                "gpu",
                "health",
                "runtime",
                "shim",
                "store",
                "logs",
                "agent",
                "controller",
                "rpc",
                "web",
                "daemon",
                "cli",
                "config",
                "telemetry",
            ],
        ),
        (&["agent"], &["controller", "rpc", "web", "cli", "scheduler", "jobfile"]),
        (&["controller"], &["agent", "rpc", "web", "cli", "runtime", "gpu"]),
        (
            &["web"],
            &[
                "agent",
                "controller",
                "scheduler",
                "store",
                "runtime",
                "gpu",
                "shim",
                "logs",
                "rpc",
                "daemon",
                "cli",
                "config",
                "telemetry",
            ],
        ),
    ];
    let sources = sources();
    let mut wrong = Vec::new();
    for (folders, above) in rules {
        let paths: Vec<String> = above.iter().map(|folder| format!("crate::{folder}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        wrong.extend(offenders(&sources, folders, &paths, &[]));
    }
    none(wrong, "dependencies go downwards: cli, rpc > agent, controller > health, scheduler > jobfile, domain");
}

#[test]
fn outside_libraries_are_named_in_one_place() {
    let sources = sources();
    let rules: [(&[&str], &[&str]); 8] = [
        (&["tonic_prost", "tonic_types", "tonic_health", "tonic_reflection"], &["rpc/"]),
        // Two wires: our own, and etcd's, whose generated code only its store sees.
        (&["tonic", "prost"], &["rpc/", "store/etcd/"]),
        (&["generated"], &["rpc/", "store/etcd"]),
        (&["hyper", "http_body_util", "axum"], &["rpc/", "web/"]),
        (&["rusqlite"], &["store/"]),
        (&["bollard"], &["runtime/docker"]),
        (&["nvml_wrapper", "nvml_wrapper_sys"], &["gpu/nvml"]),
        (&["clap", "clap_complete", "comfy_table"], &["cli/", "main.rs"]),
    ];
    for (libraries, places) in rules {
        none(offenders(&sources, &[], libraries, places), &format!("only {places:?} may name {libraries:?}"));
    }
}

#[test]
fn the_clock_is_read_in_one_place() {
    // The shim is a program of its own, with std and libc alone.
    let allowed = ["telemetry/", "shim/"];
    none(offenders(&sources(), &[], &["SystemTime"], &allowed), "wall clock time comes from telemetry::clock");
}

#[test]
fn the_shim_needs_nothing_but_std_and_libc() {
    let outside = ["tokio", "nix", "serde", "serde_json", "tracing", "uuid", "rand", "prost", "tonic"];
    none(offenders(&sources(), &["shim"], &outside, &[]), "the shim is compiled by itself, statically");
}

#[test]
fn the_map_shows_every_folder() {
    let map = fs::read_to_string(source_folder().join("lib.rs")).expect("there is a map");
    let entries = fs::read_dir(source_folder()).expect("src can be read").flatten();
    let folders: BTreeSet<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let documented: String = map.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    let missing: Vec<&String> = folders.iter().filter(|folder| !documented.contains(folder.as_str())).collect();
    assert!(missing.is_empty(), "the text of src/lib.rs does not say what {missing:?} is for");
    let undeclared: Vec<&String> = folders.iter().filter(|folder| !map.contains(&format!("mod {folder};"))).collect();
    assert!(undeclared.is_empty(), "{undeclared:?} is no module");
}

#[test]
fn tests_are_never_switched_off() {
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).expect("it can be read").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).expect("sources are UTF-8");
                    if text.lines().any(|line| line.trim_start().starts_with("#[ignore")) {
                        found.push(path.display().to_string());
                    }
                }
            }
        }
    }
    none(found, "a test that cannot run says so (harness::skip)");
}
