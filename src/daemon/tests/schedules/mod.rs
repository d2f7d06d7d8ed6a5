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
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Which seeds: `WHARF_SEEDS=FIRST..LAST`, or a few; more with the long suites.
fn seeds() -> Vec<u64> {
    if let Ok(text) = std::env::var("WHARF_SEEDS") {
        let (first, last) = text.split_once("..").expect("WHARF_SEEDS is FIRST..LAST");
        return (first.parse().expect("a number")..last.parse().expect("a number")).collect();
    }
    let last = if std::env::var_os("WHARF_LONG").is_some() { 2_000 } else { FEW };
    (0..last).chain(FOUND.into_iter().filter(|seed| *seed >= last)).collect()
}

/// So many are not worth more than one processor, which others want too.
const FEW: u64 = 60;

/// Explores what is left of the seeds; the first breach ends it for all.
fn explore_all(seeds: &[u64], next: &AtomicUsize) -> Result<audit::Figures, String> {
    let mut total = audit::Figures::default();
    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
        match explore(*seed) {
            Ok(figures) => total.add(&figures),
            Err(breach) => {
                next.store(seeds.len(), Ordering::Relaxed);
                return Err(breach);
            }
        }
    }
    Ok(total)
}

#[test]
fn no_schedule_of_faults_loses_doubles_or_forgets_a_task() {
    let (seeds, next) = (seeds(), AtomicUsize::new(0));
    let few = seeds.len() as u64 <= FEW + FOUND.len() as u64;
    let threads = if few { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let mut total = audit::Figures::default();
    std::thread::scope(|scope| {
        let explorers: Vec<_> = (0..threads).map(|_| scope.spawn(|| explore_all(&seeds, &next))).collect();
        for explorer in explorers {
            match explorer.join().expect("an explorer that returns") {
                Ok(figures) => total.add(&figures),
                Err(breach) => panic!("{breach}"),
            }
        }
    });
    println!("{total}");
    assert!(total.executions > 0 && total.faults > 0, "{total}");
}
