//! NVLinks: those that were up once are to be up, and their error counters are not to run.
//!
//! Boards have links that nothing is connected to, PCIe cards without a bridge have all of them: a link that was never
//! up is nothing. On a board that is divided the driver takes its links down, which their other ends see as well; and a
//! board that goes takes down links of boards that are well. So what is at the other end is looked at too.

use super::far_end::{FarEnd, Standing};
use super::growth::Rate;
use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{LinkEnd, NvLink, Reading};
use crate::health::SeenAt;
use crate::health::verdict::Judgement;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Rounds in a row: a link goes down for a moment while it is trained anew.
const DOWN_ROUNDS: u8 = 2;

/// A counter of a link: its name, how to read it, and how much of it a minute is too much. DCGM has the limit of CRC
/// errors, 100 a second; the others are ours: retries in masses, and trainings that repeat.
type Limit = (&'static str, fn(&NvLink) -> Option<u64>, f64);
const LIMITS: [Limit; 7] = [
    ("CRC errors", crc_errors, 6000.0),
    ("replays", |link| link.replays.known().copied(), 600.0),
    ("recoveries", |link| link.recoveries.known().copied(), 3.0),
    ("recoveries", |link| link.recoveries_done.known().copied(), 3.0),
    ("failed recoveries", |link| link.recoveries_failed.known().copied(), 0.0),
    ("receive errors", |link| link.receive_errors.known().copied(), 600.0),
    ("effective errors", |link| link.effective_errors.known().copied(), 600.0),
];

fn crc_errors(link: &NvLink) -> Option<u64> {
    match (link.crc_flit_errors.known(), link.crc_data_errors.known()) {
        (None, None) => None,
        (flit, data) => Some(flit.copied().unwrap_or(0).saturating_add(data.copied().unwrap_or(0))),
    }
}

/// What is remembered of one link.
#[derive(Debug, Default)]
pub(super) struct Link {
    was_up: bool,
    /// Where it led when it was up.
    end: Option<LinkEnd>,
    down_rounds: u8,
    rates: [Rate; LIMITS.len()],
}

impl Link {
    /// One that an earlier process of the agent has seen up.
    pub fn that_worked(end: Option<LinkEnd>) -> Self {
        Self { was_up: true, end, ..Self::default() }
    }

    /// Where it leads, if it ever was up.
    pub fn worked(&self) -> Option<Option<LinkEnd>> {
        self.was_up.then_some(self.end)
    }

    /// Of the past.
    pub fn forget_errors(&mut self) {
        self.rates = Default::default();
    }

    /// Where it leads, as far as it was ever said.
    pub fn end(&mut self, link: &NvLink) -> Option<LinkEnd> {
        self.end = link.far_end.or(self.end);
        self.end
    }

    /// Whether it is up, if it ever was.
    pub fn state(&mut self, link: &NvLink, far: &FarEnd) -> Finding {
        match (&link.is_active, &far.standing) {
            (Reading::Known(true), _) => {
                (self.was_up, self.down_rounds) = (true, 0);
                Finding::InOrder
            }
            (Reading::Known(false), Standing::Divided) if self.was_up => {
                self.down_rounds = 0;
                Finding::InOrder
            }
            (Reading::Known(false), standing) if self.was_up => {
                self.down_rounds = self.down_rounds.saturating_add(1);
                if self.down_rounds < DOWN_ROUNDS {
                    return Finding::Unseen;
                }
                let (action, reason) = match standing {
                    Standing::Away => (
                        Action::None,
                        "An NVLink that was up is down because the GPU at its other end is away: that one is to be looked at.",
                    ),
                    Standing::There | Standing::Divided => (
                        Action::ResetGpu,
                        "An NVLink that was up is down: GPUs reach each other over fewer links, or not at all.",
                    ),
                };
                let evidence = format!("link {}{}: inactive, was active", link.link, far.name);
                Finding::fault(Judgement::new(Verdict::Link, action, reason), evidence)
            }
            (Reading::Known(false) | Reading::NotSupported, _) => Finding::NotThere,
            (Reading::Failed { .. }, _) => Finding::Unseen,
        }
    }

    /// Whether its counters run, if it ever was up.
    pub fn errors(&mut self, link: &NvLink, far: &FarEnd, seen: SeenAt) -> Finding {
        let mut finding = Finding::NotThere;
        if !self.was_up {
            return finding;
        }
        for ((name, count, most), rate) in LIMITS.iter().zip(&mut self.rates) {
            let Some(value) = count(link) else { continue };
            match rate.over(MINUTE, value, seen) {
                Some(growth) if growth.is_above(*most, MINUTE) => {
                    let reason = "An NVLink has so many errors that what goes over it is sent again and again.";
                    let evidence =
                        format!("link {}{}, {name}: {growth}; allowed: {most} a minute", link.link, far.name);
                    return Finding::fault(Judgement::new(Verdict::Link, Action::ResetGpu, reason), evidence);
                }
                Some(_) if finding == Finding::NotThere => finding = Finding::InOrder,
                Some(_) => {}
                None => finding = Finding::Unseen,
            }
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, at, told};
    use super::*;

    const FAULT: Told = Told::Fault(Verdict::Link, Action::ResetGpu);

    fn link(is_active: bool) -> NvLink {
        NvLink { link: 3, is_active: Reading::Known(is_active), ..NvLink::default() }
    }

    #[test]
    fn only_links_that_were_up_can_be_down() {
        let mut memory = Link::default();
        let mut states = |states: &[bool]| {
            states.iter().map(|up| told(&memory.state(&link(*up), &FarEnd::default()))).collect::<Vec<_>>()
        };
        assert_eq!(states(&[false; 3]), [Told::NotThere; 3]);
        assert_eq!(states(&[true, false, true]), [Told::InOrder, Told::Unseen, Told::InOrder]);
        assert_eq!(states(&[false; 4]), [Told::Unseen, FAULT, FAULT, FAULT]);
        assert_eq!(states(&[true]), [Told::InOrder]);
    }

    #[test]
    fn a_link_is_down_for_its_other_ends_sake_or_its_own() {
        let away = Told::Fault(Verdict::Link, Action::None);
        for (standing, expected) in [
            (Standing::There, [FAULT, FAULT]),
            (Standing::Away, [away, FAULT]),
            // Undivided again it has to come up.
            (Standing::Divided, [Told::InOrder, Told::Unseen]),
        ] {
            let mut memory = Link::default();
            let far = FarEnd { standing, ..FarEnd::default() };
            memory.state(&link(true), &far);
            let last = (0..3).map(|_| told(&memory.state(&link(false), &far))).last().unwrap();
            let back = told(&memory.state(&link(false), &FarEnd::default()));
            assert_eq!([last, back], expected, "{far:?}");
        }
    }

    #[test]
    fn where_a_link_leads_is_known_after_it_went_down() {
        let (mut memory, end) = (Link::default(), LinkEnd::Gpu("0000:0f:00.0".parse().unwrap()));
        assert_eq!(memory.end(&link(false)), None);
        assert_eq!(memory.end(&NvLink { far_end: Some(end), ..link(true) }), Some(end));
        assert_eq!(memory.end(&link(false)), Some(end));
    }

    #[test]
    fn what_cannot_be_read_takes_no_link_down() {
        let mut memory = Link::default();
        memory.state(&link(true), &FarEnd::default());
        let failed = NvLink { is_active: Reading::Failed { code: 999, message: String::new() }, ..link(true) };
        assert!((0..10).all(|_| told(&memory.state(&failed, &FarEnd::default())) == Told::Unseen));
    }

    /// Three rounds of 30 s each with this growth between them.
    fn grown(was_up: bool, grow: impl Fn(&mut NvLink, u64)) -> Told {
        let mut memory = Link { was_up, ..Link::default() };
        let mut last = Told::NotThere;
        for round in 0..3 {
            let mut link = link(true);
            grow(&mut link, u64::try_from(round).unwrap());
            last = told(&memory.errors(&link, &FarEnd::default(), at(round * 2)));
        }
        last
    }

    #[test]
    fn counters_that_run_are_told_and_single_errors_are_not() {
        let known = Reading::Known;
        assert_eq!(grown(true, |link, n| link.crc_flit_errors = known(n * 3001)), FAULT);
        assert_eq!(grown(true, |link, n| link.crc_flit_errors = known(n * 3000)), Told::InOrder);
        assert_eq!(grown(true, |link, n| link.crc_data_errors = known(70_000 + n * 3001)), FAULT);
        assert_eq!(grown(true, |link, n| link.replays = known(n * 20)), Told::InOrder);
        assert_eq!(grown(true, |link, n| link.replays = known(n * 400)), FAULT);
        assert_eq!(grown(true, |link, n| link.recoveries = known(n)), Told::InOrder);
        assert_eq!(grown(true, |link, n| link.recoveries_done = known(n * 2)), FAULT);
        assert_eq!(grown(true, |link, n| link.recoveries_failed = known(n / 2)), FAULT);
        // Raw symbol errors are what the link's own correction is for.
        assert_eq!(grown(true, |link, n| link.symbol_errors = known(n * 1_000_000)), Told::NotThere);
        // A card without a bridge: whatever its counters say.
        assert_eq!(grown(false, |link, n| link.crc_flit_errors = known(n * 1_000_000)), Told::NotThere);
    }

    #[test]
    fn a_counter_that_was_reset_is_no_growth() {
        assert_eq!(
            grown(true, |link, n| link.replays = Reading::Known([1_000_000, 0, 5][usize::try_from(n).unwrap()])),
            Told::Unseen
        );
    }
}
