//! What tasks themselves write of their lives: one line of output and one moment after the other, by which a lost or
//! repeated line, a second start and two copies side by side are seen without asking wharf.

use super::running::Running;
use super::wait::until;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A task's word on one moment: its run, the line it wrote, and the seconds since the machine's boot.
pub type Moment = (u64, u64, f64);

/// A command that writes `line 1`, `line 2`, ... and as many moments to `FOLDER/NAME.moments`, until `FOLDER/NAME.stop`
/// is there; it leaves the last number in `FOLDER/NAME.last`. `folder` is a word of the task's shell.
pub fn counting(folder: &str, name: &str, code: u32) -> String {
    format!(
        "i=0; until [ -e {folder}/{name}.stop ]; do i=$((i+1)); echo line $i; read -r up rest </proc/uptime; \
         echo $WHARF_RUN_ID $i $up >>{folder}/{name}.moments; sleep 0.05; done; \
         echo $i >{folder}/{name}.last; exit {code}"
    )
}

pub fn moments(folder: &Path, name: &str) -> Vec<Moment> {
    let text = fs::read_to_string(folder.join(format!("{name}.moments"))).unwrap_or_default();
    let moment = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    // The last line may be half-written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| moment(line).unwrap_or_else(|| panic!("{name} wrote '{line}'"))).collect()
}

/// Seconds since the machine's boot, as tasks write them.
pub fn uptime_s() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("/proc is mounted");
    text.split(' ').next().and_then(|up| up.parse().ok()).expect("it begins with seconds")
}

/// Waits until the task has written so many more.
#[track_caller]
pub fn goes_on(folder: &Path, name: &str, more: usize) {
    let before = moments(folder, name).len();
    until(&format!("{name} goes on"), || (moments(folder, name).len() >= before + more).then_some(()));
}

/// The moments of each run, one run begun after the other and none beside another.
#[track_caller]
pub fn one_at_a_time(folder: &Path, name: &str) -> Vec<Vec<Moment>> {
    let mut runs: BTreeMap<u64, Vec<Moment>> = BTreeMap::new();
    for moment in moments(folder, name) {
        runs.entry(moment.0).or_default().push(moment);
    }
    let runs: Vec<_> = runs.into_values().collect();
    for run in &runs {
        // A second copy of the same run would count from one again.
        let right = run.iter().zip(1..).all(|(moment, i)| moment.1 == i);
        assert!(right, "{name}: run {} was there twice: {run:?}", run[0].0);
    }
    for pair in runs.windows(2) {
        let (last, first) = (pair[0].last().expect("it wrote"), pair[1][0]);
        assert!(last.2 < first.2, "{name}: {last:?} was alive when {first:?} began");
    }
    runs
}

/// What a task of one run has printed, once it has ended.
pub fn printed(folder: &Path, name: &str) -> String {
    let last = until(&format!("{name} has ended"), || {
        fs::read_to_string(folder.join(format!("{name}.last"))).ok()?.trim_end().parse().ok()
    });
    (1..=last).map(|i: u64| format!("line {i}\n")).collect()
}

/// A follower has seen every line once.
#[track_caller]
pub fn saw_all(folder: &Path, name: &str, follower: Running) {
    let (expected, followed) = (printed(folder, name), follower.finish());
    assert_eq!(followed.code, 0, "{name}: {}", followed.errors());
    let found = followed.text();
    let (found, expected): (Vec<&str>, Vec<&str>) = (found.lines().collect(), expected.lines().collect());
    let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    assert!(
        found == expected,
        "{name}: {} lines instead of {}; after line {same}: {:?}",
        found.len(),
        expected.len(),
        &found[same..found.len().min(same + 5)]
    );
}
