//! The table row by row, and what `retryCount` makes of each.

use super::table::{TABLE, When};
use super::*;
use crate::domain::exit::ExitClass::{self, *};
use proptest::prelude::*;

fn ended(class: ExitClass) -> Exit {
    Exit::without_status(class, "why")
}

fn status(code: i32) -> Exit {
    Exit { code: Some(code), ..ended(User) }
}

fn signal(number: i32) -> Exit {
    Exit { signal: Some(number), ..ended(User) }
}

fn used(counted: u64, platform: u64, hardware: u64) -> Retries {
    Retries { counted, platform, hardware, asked: 0 }
}

fn after(retry_count: i64, exit: &Exit, retries: Retries) -> Option<Retries> {
    match decide(retry_count, exit, retries, 0.5) {
        Decision::End => None,
        Decision::Retry { retries, .. } => Some(retries),
    }
}

/// Every end that OpenPAI's specification of exits or this system tells apart, and the row it belongs to.
fn ends() -> Vec<(Exit, &'static str)> {
    let oom = |exit: Exit| Exit { oom: true, ..exit };
    let by = |class, signal| Exit { signal: Some(signal), ..ended(class) };
    let busy = |exit: Exit| Exit { busy_ports: vec![15_000], ..exit };
    let mut ends = vec![
        (Exit::success(), "success"),
        (oom(Exit::success()), "success"),
        (ended(Stopped), "stopped"),
        (by(Stopped, 15), "stopped"),
        (Exit { code: Some(193), ..ended(Stopped) }, "stopped"),
        (ended(Preempted), "preempted"),
        (by(Preempted, 9), "preempted"),
        (ended(Hardware), "hardware"),
        (by(Hardware, 11), "hardware"),
        (oom(by(Hardware, 9)), "hardware"),
        (ended(TimeLimit), "time_limit"),
        (by(TimeLimit, 15), "time_limit"),
        (ended(Watchdog), "watchdog"),
        (busy(Exit { code: Some(1), ..ended(Platform) }), "port_taken"),
        (busy(ended(Platform)), "port_taken"),
        (oom(by(Platform, 9)), "node_memory"),
        (by(Platform, 15), "ended_from_outside"),
        (by(Platform, 9), "ended_from_outside"),
        (Exit { code: Some(0), ..ended(Platform) }, "ended_from_outside"),
        (Exit { code: Some(194), ..ended(Platform) }, "ended_from_outside"),
        (ended(Platform), "platform"),
        (oom(signal(9)), "oom"),
        (oom(status(137)), "oom"),
        (oom(status(1)), "oom"),
        (oom(status(193)), "oom"),
        (status(193), "asked_again"),
        (status(194), "asked_no_more"),
        (ended(User), "never_ran"),
        (status(1), "user"),
        (status(2), "user"),
        (status(125), "user"),
        (status(126), "user"),
        (status(127), "user"),
        (status(128), "user"),
        (status(192), "user"),
        (status(195), "user"),
        (status(255), "user"),
        (signal(1), "user"),
        (signal(10), "user"),
        (signal(24), "user"),
    ];
    let signals = [(&[4, 7, 8, 11, 13][..], "own_signal"), (&[6], "abort"), (&[2, 9, 15], "killed")];
    for (numbers, row) in signals {
        for number in numbers {
            ends.push((signal(*number), row));
            ends.push((status(128 + number), row));
        }
    }
    ends
}

#[test]
fn every_end_has_its_row() {
    for (exit, row) in ends() {
        assert_eq!(row_of(&exit).id, row, "{exit:?}");
    }
}

#[test]
fn every_row_is_reached_and_has_a_name_of_its_own() {
    let reached: Vec<&str> = ends().iter().map(|(_, row)| *row).collect();
    for (at, row) in TABLE.iter().enumerate() {
        assert!(TABLE[..at].iter().all(|other| other.id != row.id), "{} twice", row.id);
        match row.when {
            When::Before(setback) => assert_eq!(row_before(setback).id, row.id),
            _ => assert!(reached.contains(&row.id), "nothing ends as {}", row.id),
        }
    }
}

/// Columns: retryCount -2, -1, 0, 3 with none used, 3 with three used.
#[test]
fn the_table_of_retry_count_holds_for_every_end() {
    let mut cases = 0;
    for (exit, id) in ends() {
        let expected = match id {
            "success" | "time_limit" | "watchdog" | "oom" | "asked_no_more" | "own_signal" | "never_ran" => {
                [true, false, false, false, false]
            }
            "stopped" => [false; 5],
            "user" | "abort" | "killed" => [true, true, false, true, false],
            _ => [true; 5],
        };
        let columns =
            [(-2, used(3, 9, 0)), (-1, used(99, 9, 0)), (0, used(0, 0, 4)), (3, used(2, 9, 0)), (3, used(3, 0, 0))];
        for ((retry_count, retries), expected) in columns.into_iter().zip(expected) {
            let retried = after(retry_count, &exit, retries).is_some();
            assert_eq!(retried, expected, "{id}: {exit:?} with retryCount {retry_count} and {retries:?}");
            cases += 1;
        }
    }
    assert!(cases >= 60, "{cases} cases");
}

#[test]
fn each_retry_is_counted_under_its_own_kind() {
    let counted = |exit: &Exit| after(5, exit, Retries::default());
    assert_eq!(counted(&status(1)), Some(used(1, 0, 0)));
    assert_eq!(counted(&signal(9)), Some(used(1, 0, 0)));
    assert_eq!(counted(&status(193)), Some(Retries { asked: 1, ..Retries::default() }));
    assert_eq!(counted(&ended(Platform)), Some(used(0, 1, 0)));
    assert_eq!(counted(&ended(Preempted)), Some(used(0, 1, 0)));
    assert_eq!(counted(&ended(Hardware)), Some(used(0, 0, 1)));
    // -2 counts what it runs again, whatever it is.
    assert_eq!(after(-2, &Exit::success(), used(7, 0, 0)), Some(used(8, 0, 0)));
    assert_eq!(after(-2, &status(139), used(7, 0, 0)), Some(used(8, 0, 0)));
}

#[test]
fn hardware_restarts_are_capped_and_nothing_else_uses_the_cap_up() {
    for retry_count in [-1, 0, 3] {
        assert!(after(retry_count, &ended(Hardware), used(9, 9, HARDWARE_RESTARTS - 1)).is_some());
        assert!(after(retry_count, &ended(Hardware), used(0, 0, HARDWARE_RESTARTS)).is_none());
        assert!(after(retry_count, &ended(Platform), used(0, 1000, HARDWARE_RESTARTS)).is_some());
    }
    assert!(after(-2, &ended(Hardware), used(0, 0, HARDWARE_RESTARTS)).is_some());
}

#[test]
fn back_offs_are_those_of_their_family() {
    let seconds = |family, nths: &[u64]| nths.iter().map(|nth| wait(family, *nth, 0.0).as_secs()).collect::<Vec<_>>();
    assert_eq!(seconds(BackOff::Growing, &[1, 2, 3, 9, 10, u64::MAX]), [1, 2, 4, 256, 300, 300]);
    assert_eq!(seconds(BackOff::Short, &[1, 2, 6, 7, u64::MAX]), [1, 2, 32, 60, 60]);
    assert_eq!(seconds(BackOff::AtOnce, &[1, 16, 17, 18, u64::MAX]), [0, 0, 1, 2, 60]);
    assert_eq!(seconds(BackOff::Conflict, &[1, 2, 3, u64::MAX]), [1, 2, 600, 600]);
    let most = |nth| wait(BackOff::Conflict, nth, 1.0).as_secs();
    assert_eq!([3, 4, 7, 8, 9, u64::MAX].map(most), [1100, 1600, 3100, 3600, 3600, 3600]);
    assert_eq!(wait(BackOff::Conflict, 8, 0.5).as_secs(), 2100);
    assert_eq!(wait(BackOff::None, 5, 1.0), Duration::ZERO);
}

#[test]
fn a_port_that_was_taken_is_no_reason_to_wait() {
    let exit = Exit { busy_ports: vec![15_000], ..ended(Platform) };
    let Decision::Retry { delay, why, .. } = decide(0, &exit, Retries::default(), 0.9) else { panic!("{exit:?}") };
    assert_eq!(delay, Duration::ZERO);
    assert_eq!(why, "platform retry 1 after: why");
}

proptest! {
    /// Whatever comes: a decision, never a longer wait than the longest, exactly one counter moved by one.
    #[test]
    fn any_end_is_decided(
        class in 0..ExitClass::ALL.len(),
        code in proptest::option::of(any::<i32>()),
        signal in proptest::option::of(any::<i32>()),
        oom in any::<bool>(),
        retry_count in -2i64..1000,
        counts in any::<[u64; 4]>(),
        chance in any::<f64>(),
    ) {
        let class = ExitClass::ALL[class];
        let exit = Exit { code, signal, oom, ..ended(class) };
        let [counted, platform, hardware, asked] = counts;
        let before = Retries { counted, platform, hardware, asked };
        prop_assert!(!matches!(row_of(&exit).when, When::Before(_)));
        if let Decision::Retry { delay, retries, .. } = decide(retry_count, &exit, before, chance) {
            prop_assert!(delay <= LONGEST_BACK_OFF);
            prop_assert!(class != ExitClass::Stopped);
            let moved = |a: u64, b: u64| u64::from(b != a);
            let moves = moved(counted, retries.counted) + moved(platform, retries.platform)
                + moved(hardware, retries.hardware) + moved(asked, retries.asked);
            prop_assert!(moves <= 1);
        }
    }
}
