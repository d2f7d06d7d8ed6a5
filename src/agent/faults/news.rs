//! Which faults the controller is told. Its list has room for some: what keeps GPUs from tasks is always among them, and
//! whatever was opened, became graver or ended is told at least once, however many there are.

use crate::domain::fault::{Fault, FaultId, FaultState};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Faults that are told at once.
const TOLD: usize = 64;
/// Of these so many that are over and were not told to be: they are not to push out what lasts.
const ENDS: usize = 16;

/// What the controller has not heard yet.
#[derive(Debug, Default)]
pub(super) struct News {
    /// With the version of the list that has it first.
    untold: BTreeMap<FaultId, u64>,
    /// The last list: its version, and which were in it.
    offered: Option<(u64, Vec<FaultId>)>,
}

impl News {
    /// It was opened, is graver, or over.
    pub fn note(&mut self, id: FaultId, version: u64) {
        self.untold.insert(id, version);
    }

    /// It is no longer kept.
    pub fn forget(&mut self, id: FaultId) {
        self.untold.remove(&id);
    }

    /// The faults that are told next, in the order of their ids.
    pub fn choose<'a>(&self, faults: impl Iterator<Item = &'a Fault>) -> Vec<&'a Fault> {
        let mut ranked: Vec<(u8, Reverse<FaultId>, &Fault)> =
            faults.map(|fault| (self.rank(fault), Reverse(fault.id), fault)).collect();
        ranked.sort_by_key(|(rank, id, _)| (*rank, *id));
        let ends = ranked.iter().take_while(|(rank, ..)| *rank == 0).count();
        // What is too many of them comes last.
        ranked[ENDS.min(ends)..].rotate_left(ends.saturating_sub(ENDS));
        let mut told: Vec<&Fault> = ranked.into_iter().take(TOLD).map(|(.., fault)| fault).collect();
        told.sort_by_key(|fault| fault.id);
        told
    }

    fn rank(&self, fault: &Fault) -> u8 {
        let is_news = self.untold.contains_key(&fault.id);
        match (fault.state, fault.takes_out_of_use(), is_news) {
            (FaultState::Cleared, _, true) => 0,
            (FaultState::Active, true, true) => 1,
            (FaultState::Active, true, false) => 2,
            (FaultState::Active, false, true) => 3,
            (FaultState::Active, false, false) => 4,
            (FaultState::Cleared, _, false) => 5,
        }
    }

    /// A list is on its way.
    pub fn offered(&mut self, version: u64, told: &[&Fault]) {
        self.offered = Some((version, told.iter().map(|fault| fault.id).collect()));
    }

    /// The controller has the list of this version. Whether there is news that had no room in it.
    pub fn taken(&mut self, version: u64) -> bool {
        let Some((_, told)) = self.offered.take_if(|(offered, _)| *offered == version) else { return false };
        for id in told {
            // What has changed since then is news again.
            if self.untold.get(&id).is_some_and(|since| *since <= version) {
                self.untold.remove(&id);
            }
        }
        self.untold.values().any(|since| *since <= version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::{Action, FaultKind, Subject, Verdict};

    fn fault(id: u64, action: Action, state: FaultState) -> Fault {
        Fault {
            id: FaultId(id),
            kind: FaultKind::Xid,
            code: None,
            node: None,
            subject: Subject::default(),
            pid: None,
            process: None,
            verdict: Verdict::Gpu,
            action,
            by_driver: false,
            reason: String::new(),
            count: 1,
            related: 0,
            first_seen: None,
            last_seen: None,
            first_seen_boot_us: None,
            last_seen_boot_us: None,
            state,
            evidence: Vec::new(),
            task: None,
            job: None,
        }
    }

    fn ids(told: &[&Fault]) -> Vec<u64> {
        told.iter().map(|fault| fault.id.0).collect()
    }

    #[test]
    fn what_keeps_gpus_from_tasks_comes_before_what_is_only_noted() {
        let active = |id: u64| {
            let action = if id <= 50 { Action::ResetGpu } else { Action::None };
            fault(id, action, FaultState::Active)
        };
        let faults: Vec<Fault> = (1..=100).map(active).collect();
        let told = ids(&News::default().choose(faults.iter()));
        assert_eq!(told, (1..=50).chain(87..=100).collect::<Vec<_>>());
    }

    #[test]
    fn everything_is_told_once_however_many_there_are() {
        let mut news = News::default();
        let mut faults: Vec<Fault> = (1..=200).map(|id| fault(id, Action::ResetGpu, FaultState::Active)).collect();
        let tell_all = |news: &mut News, faults: &[Fault], mut version: u64| {
            let mut told = std::collections::BTreeSet::new();
            for lists in 1.. {
                let list = news.choose(faults.iter());
                told.extend(ids(&list));
                news.offered(version, &list);
                if !news.taken(version) {
                    return (told, lists);
                }
                version += 1;
            }
            unreachable!("it ends")
        };
        faults.iter().for_each(|fault| news.note(fault.id, 1));
        let (told, lists) = tell_all(&mut news, &faults, 1);
        assert_eq!((told.len(), lists), (200, 4));
        // Forty of them end, and the others still fill the list.
        for fault in &mut faults[..40] {
            fault.state = FaultState::Cleared;
            news.note(fault.id, 10);
        }
        let (told, lists) = tell_all(&mut news, &faults, 10);
        assert!((1..=40).all(|id| told.contains(&id)) && lists == 3, "{told:?} in {lists}");
        assert_eq!(ids(&news.choose(faults.iter())), (137..=200).collect::<Vec<_>>());
    }

    #[test]
    fn what_changes_while_a_list_is_on_its_way_is_told_again() {
        let mut news = News::default();
        let mut one = fault(7, Action::ResetGpu, FaultState::Active);
        news.note(one.id, 1);
        news.offered(1, &news.choose([&one].into_iter()));
        one.state = FaultState::Cleared;
        news.note(one.id, 2);
        assert!(!news.taken(1), "the next version is told anyway");
        assert_eq!(news.rank(&one), 0);
        news.offered(2, &news.choose([&one].into_iter()));
        assert!(!news.taken(2));
        assert_eq!(news.rank(&one), 5);
        assert!(!news.taken(2), "a late answer");
    }
}
