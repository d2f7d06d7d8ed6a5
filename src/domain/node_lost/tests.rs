//! Tables, and any history of losses, heals and restarts against a shim that keeps to its lease.

use super::*;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_task_is_dead_when_lease_and_margin_have_passed_since_what_may_have_been_granted() {
    // Last renewal, lease, dead at, in milliseconds.
    let table = [
        (Some(0), 300, 330_300),
        (Some(100), 300, 430_300),
        (None, 300, 330_300),
        (None, 1800, 1_831_800),
        (Some(5), 2_592_000, 2_594_627_000),
    ];
    for (renewed, lease, expected) in table {
        assert_eq!(dead_at(renewed.map(secs), secs(lease)), Duration::from_millis(expected), "{renewed:?} {lease}");
    }
}

/// Nodes that are heard, and the times at which others were lost.
fn judged(heard: usize, losses: &[i64]) -> Option<(usize, usize)> {
    let reach = |lost_at: Option<Timestamp>| Reach { heard: lost_at.is_none(), lost_at };
    let nodes = vec![reach(None); heard].into_iter().chain(losses.iter().map(|lost| reach(Some(at(*lost)))));
    suspicion(nodes).map(|suspicion| (suspicion.lost, suspicion.of))
}

#[test]
fn the_controller_suspects_itself_when_most_nodes_vanish_at_once() {
    assert_eq!(judged(0, &[]), None);
    assert_eq!(judged(0, &[1, 1]), None, "two machines may fail together");
    assert_eq!(judged(0, &[1, 1, 1]), Some((3, 3)));
    assert_eq!(judged(2, &[1, 50, 100]), Some((3, 5)), "one after the other, still at once");
    assert_eq!(judged(3, &[1, 1, 1]), None, "half is not more than half");
    assert_eq!(judged(6, &[1, 2, 3, 4, 5]), None, "a rack");
    // One a day, never repaired: no event, however many they are by now.
    let daily: Vec<i64> = (0..9).map(|day| day * 86_400).collect();
    assert_eq!(judged(1, &daily), None);
    // Those long dead count for nothing in what happens now.
    assert_eq!(judged(2, &[0, 86_400, 200_000, 200_001, 200_002]), Some((3, 5)));
    assert_eq!(judged(4, &[0, 86_400, 200_000, 200_001, 200_002]), None);
    // What was lost after the event was there at its time.
    assert_eq!(judged(0, &[0, 1, 2, 86_400, 90_000]), Some((3, 5)));
    assert_eq!(judged(1, &[0, 1, 2, 86_400, 90_000]), None);
}

#[test]
fn a_node_that_has_its_time_after_a_start_counts_as_heard() {
    let fresh = Reach { heard: true, lost_at: None };
    let lost = Reach { heard: false, lost_at: Some(at(1)) };
    assert_eq!(suspicion([fresh, fresh, fresh, lost, lost, lost]), None);
    assert!(suspicion([lost, lost, lost, fresh]).is_some());
}

/// What befalls one node between two beats of its agent.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The heartbeat and its answer arrive.
    Fine,
    /// Arrives after so many seconds, and the answer after as many.
    Slow(u64),
    /// Heard, but the answer is lost.
    Deaf,
    /// Nothing arrives, for so many seconds.
    Cut(u64),
    /// Another controller takes over, with nothing but the store, and is heard after so many seconds.
    Takeover(u64),
    /// The machine sleeps for so many seconds.
    Suspend(u64),
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let one = prop_oneof![
        6 => Just(Fate::Fine),
        2 => (0u64..5).prop_map(Fate::Slow),
        2 => Just(Fate::Deaf),
        3 => (0u64..900).prop_map(Fate::Cut),
        1 => (0u64..60).prop_map(Fate::Takeover),
        1 => (0u64..600).prop_map(Fate::Suspend),
    ];
    proptest::collection::vec(one, 1..60)
}

/// A shim: dies of itself, its grace and its late look after the end of its lease.
#[derive(Debug)]
struct Shim {
    until: f64,
    /// Seconds of real time in a second of its clock.
    pace: f64,
}

impl Shim {
    /// A heartbeat sent at real time `sent` was answered at `answered`: alive, it takes the renewal.
    fn renew(&mut self, sent: f64, answered: f64, lease: f64) {
        if answered < self.until {
            self.until = self.until.max(sent + lease * self.pace);
        }
    }

    /// Nothing of it is alive after this real time.
    fn gone_by(&self) -> f64 {
        self.until + (10.0 + 5.0 + 2.0) * self.pace
    }
}

/// A controller, on its own clock.
struct Controller {
    /// Its start, in real time.
    began: f64,
    pace: f64,
    renewed: Option<Duration>,
}

impl Controller {
    fn clock(&self, real: f64) -> Duration {
        Duration::from_secs_f64((real - self.began).max(0.0) / self.pace)
    }

    /// The real time at which it replaces if nothing more is heard.
    fn replaces_at(&self, lease: f64) -> f64 {
        self.began + dead_at(self.renewed, Duration::from_secs_f64(lease)).as_secs_f64() * self.pace
    }

    fn hears(&mut self, real: f64) {
        self.renewed = self.renewed.max(Some(self.clock(real)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is lost, late, asleep or restarted: when the replacement may begin, the old copy is gone.
    #[test]
    fn two_copies_never_live_at_once(
        fates in fates(),
        lease in 300.0f64..4000.0,
        shim_ppm in -500i32..500,
        controller_ppm in -500i32..500,
    ) {
        let pace = |ppm: i32| 1.0 + f64::from(ppm) / 1e6;
        let mut now = 0.0;
        let mut shim = Shim { until: lease * pace(shim_ppm), pace: pace(shim_ppm) };
        // The task was launched in the life of this controller, which heard that it was ready.
        let mut controller = Controller { began: 0.0, pace: pace(controller_ppm), renewed: Some(Duration::ZERO) };
        for fate in fates {
            // Nothing is heard from here on until the fate says so: may it be replaced meanwhile?
            let until = now + match fate {
                Fate::Fine | Fate::Deaf => 2.0,
                Fate::Slow(late) => 2.0 + 2.0 * late as f64,
                Fate::Cut(lasts) | Fate::Takeover(lasts) | Fate::Suspend(lasts) => 2.0 + lasts as f64,
            };
            let replaced = controller.replaces_at(lease);
            if replaced <= until && !matches!(fate, Fate::Takeover(_)) {
                // A renewal that is on its way then was heard before, or is not granted.
                prop_assert!(shim.gone_by() <= replaced, "{shim:?} at {replaced}");
                return Ok(());
            }
            match fate {
                Fate::Fine => {
                    controller.hears(until);
                    shim.renew(until, until, lease);
                }
                Fate::Slow(late) => {
                    // Sent, heard and answered at three different times.
                    controller.hears(now + 2.0 + late as f64);
                    shim.renew(now + 2.0, until, lease);
                }
                Fate::Deaf => controller.hears(until),
                Fate::Takeover(_) => {
                    // The old one granted until the moment of the takeover.
                    shim.renew(now, now, lease);
                    controller = Controller { began: now, pace: controller.pace, renewed: None };
                }
                Fate::Cut(_) | Fate::Suspend(_) => {}
            }
            now = until;
        }
        prop_assert!(shim.gone_by() <= controller.replaces_at(lease), "{shim:?}");
    }
}
