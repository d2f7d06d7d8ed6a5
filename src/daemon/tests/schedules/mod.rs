//! A whole fleet in one process, under scripted time: the controller and the agents as they are shipped, on machines,
//! networks and disks that are played. Seeded schedules of everything that can go wrong, then an audit of what the machines
//! themselves have written down.
//!
//! ```text
//! plan (seed) --> faults --> fleet: controllers --network--> agents --> machines --> executions
//!                              |                                                         |
//!                              +--> store, history ------------> audit <-----------------+
//! ```
//!
//! Time is tokio's, paused: it goes on to the next timer when nobody has anything to do, so that an hour of a fleet takes a
//! moment. A process that is killed here is really cut off: nothing that it still does reaches a disk, a machine or
//! anybody else, wherever it was.

mod audit;
mod clock;
mod fleet;
mod gate;
mod machine;
mod network;
mod plan;

use fleet::Fleet;
use plan::Plan;

/// Runs the schedule of a seed and returns what the audit found, with the plan that led there.
fn explore(seed: u64) -> Result<audit::Figures, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let plan = Plan::new(seed);
    let told = plan.to_string();
    let work = async {
        let mut fleet = Fleet::start(seed, 3).await;
        fleet.run(&plan).await?;
        let figures = audit::audit(&fleet).await;
        fleet.end().await;
        figures
    };
    let found = runtime.expect("a runtime").block_on(work);
    found.map_err(|breach| format!("seed {seed}: {breach}\n{told}"))
}

/// Seeds that once found something.
const FOUND: [u64; 2] = [458, 670];

/// Which seeds: `WHARF_SEEDS=FIRST..LAST`, or a few; many with the long suites.
fn seeds() -> Vec<u64> {
    if let Ok(text) = std::env::var("WHARF_SEEDS") {
        let (first, last) = text.split_once("..").expect("WHARF_SEEDS is FIRST..LAST");
        return (first.parse().expect("a number")..last.parse().expect("a number")).collect();
    }
    let last = if std::env::var_os("WHARF_LONG").is_some() { 10_000 } else { 60 };
    (0..last).chain(FOUND.into_iter().filter(|seed| *seed >= last)).collect()
}

#[test]
fn no_schedule_of_faults_loses_doubles_or_forgets_a_task() {
    let mut total = audit::Figures::default();
    for seed in seeds() {
        match explore(seed) {
            Ok(figures) => total.add(&figures),
            Err(breach) => panic!("{breach}"),
        }
    }
    println!("{total}");
    assert!(total.executions > 0 && total.faults > 0, "{total}");
}
