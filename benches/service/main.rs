//! How long wharf takes, beside what it stands on: everything in one run, in turns, durable writes on.
//!
//! `cargo bench --bench service` prints the table of the README. `-- --rounds N` changes how often, `-- --only PART` runs
//! one of go, process, skew, adoption, docker, logs, memory. Docker's parts need dockerd on this machine.

mod adoption;
mod clock;
mod cluster;
mod docker;
mod go;
mod logs;
mod memory;
mod process;
mod table;

use table::Table;

/// Says that this process has a network of its own.
const ALONE: &str = "WHARF_BENCH_ALONE";

fn main() {
    // A dockerd of our own would change the machine's bridges and rules: everything runs in a network namespace.
    if std::env::var_os(ALONE).is_none() && nix::unistd::Uid::effective().is_root() {
        let program = std::env::current_exe().expect("the kernel knows the program");
        let error = std::os::unix::process::CommandExt::exec(
            std::process::Command::new("unshare")
                .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
                .arg(program)
                .args(std::env::args_os().skip(1))
                .env(ALONE, "1"),
        );
        eprintln!("no network namespace of our own: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(measure());
}

async fn measure() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let rounds: usize = value("--rounds").map_or(50, |text| text.parse().expect("--rounds takes a number"));
    let only = value("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let folder = tempfile::Builder::new().prefix("wb-").tempdir().expect("a temporary folder can be made");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let stamps = clock::Stamps::build(folder.path());
    let mut table = Table::default();
    table.heading();
    if wanted("go") {
        go::run(&stamps, rounds, &mut table);
    }
    if wanted("process") {
        process::run(folder.path(), &stamps, rounds, &mut table).await;
    }
    if wanted("skew") {
        process::skew(folder.path(), &stamps, rounds.min(20), &mut table).await;
    }
    if wanted("adoption") {
        adoption::run(folder.path(), rounds.min(20), &mut table).await;
    }
    let dockerd =
        if wanted("docker") || wanted("logs") { docker::Dockerd::start(folder.path(), &stamps).await } else { None };
    if wanted("docker")
        && let Some(dockerd) = &dockerd
    {
        docker::run(folder.path(), &stamps, dockerd, rounds, &mut table).await;
    }
    if wanted("logs") {
        logs::run(folder.path(), dockerd.as_ref(), &mut table).await;
    }
    if wanted("memory") {
        memory::run(folder.path(), &mut table).await;
    }
    table.print();
}
