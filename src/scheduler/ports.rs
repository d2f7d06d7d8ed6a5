//! Which ports a task gets on a host.
//!
//! Ports asked for by number are exactly those, so two tasks that ask for the same never share a host. All others
//! of one task form one block if there is one, behind the ports given out last; else the next free ones. Ports that
//! somebody else was found to use are not given out freely for a while; who asks for one by number asks the agent.

use super::snapshot::HostPorts;
use crate::domain::spec::PortSpec;
use crate::domain::task::AssignedPorts;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Why the ports of a task are not to be had on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortShortage {
    /// A port asked for by number is in use.
    Used { port: u16 },
    /// A range asked for by number goes beyond 65535.
    BeyondLast { begin_at: u16, count: u16 },
    /// Too few free ports in the node's range.
    Free { need: usize, have: usize },
}

/// Assigns ports in the order of `needs`, without taking them. `fixed` are the numbers that the gang asks for:
/// they are not given out freely.
pub fn assign(
    needs: &[PortSpec],
    range: &RangeInclusive<u16>,
    host: &HostPorts,
    fixed: &BTreeSet<u16>,
) -> Result<Vec<AssignedPorts>, PortShortage> {
    let dynamic: usize = needs.iter().filter(|need| need.begin_at == 0).map(|need| usize::from(need.count)).sum();
    let mut free = choose(dynamic, range, host, fixed)?.into_iter();
    let mut assigned = Vec::with_capacity(needs.len());
    for need in needs {
        let ports = if need.begin_at == 0 {
            free.by_ref().take(usize::from(need.count)).collect()
        } else {
            exactly(need, host)?
        };
        assigned.push(AssignedPorts { label: need.label.clone(), ports });
    }
    Ok(assigned)
}

fn exactly(need: &PortSpec, host: &HostPorts) -> Result<Vec<u16>, PortShortage> {
    let beyond = PortShortage::BeyondLast { begin_at: need.begin_at, count: need.count };
    let ports: Option<Vec<u16>> = (0..need.count).map(|offset| need.begin_at.checked_add(offset)).collect();
    let ports = ports.ok_or(beyond)?;
    match ports.iter().find(|port| host.used.contains(port)) {
        Some(port) => Err(PortShortage::Used { port: *port }),
        None => Ok(ports),
    }
}

fn choose(
    count: usize,
    range: &RangeInclusive<u16>,
    host: &HostPorts,
    fixed: &BTreeSet<u16>,
) -> Result<Vec<u16>, PortShortage> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let start = host.last.map_or(first, |port| u32::from(port) + 1);
    let start = if (first..=last).contains(&start) { start } else { first };
    let block = block_from(start, last, count, host, fixed).or_else(|| block_from(first, last, count, host, fixed));
    if let Some(block) = block {
        return Ok(block);
    }
    let is_free = |port: &u16| !host.used.contains(port) && !host.busy.contains(port) && !fixed.contains(port);
    let ports: Vec<u16> = (start..=last).chain(first..start).filter_map(|port| u16::try_from(port).ok()).collect();
    let free: Vec<u16> = ports.into_iter().filter(is_free).collect();
    if free.len() < count {
        return Err(PortShortage::Free { need: count, have: free.len() });
    }
    Ok(free[..count].to_vec())
}

/// The first run of `count` free ports at or after `from`: steps from one used port to the next.
fn block_from(from: u32, last: u32, count: usize, host: &HostPorts, fixed: &BTreeSet<u16>) -> Option<Vec<u16>> {
    let count = u32::try_from(count).ok()?;
    let mut begin = from;
    loop {
        let end = begin.checked_add(count - 1).filter(|end| *end <= last)?;
        let (low, high) = (u16::try_from(begin).ok()?, u16::try_from(end).ok()?);
        let last_taken = |set: &BTreeSet<u16>| set.range(low..=high).next_back().copied();
        match last_taken(&host.used).max(last_taken(&host.busy)).max(last_taken(fixed)) {
            Some(taken) => begin = u32::from(taken) + 1,
            None => return Some((low..=high).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn need(label: &str, begin_at: u16, count: u16) -> PortSpec {
        PortSpec { label: label.to_owned(), begin_at, count }
    }

    fn host(used: &[u16], last: Option<u16>) -> HostPorts {
        HostPorts { used: used.iter().copied().collect(), last, busy: BTreeSet::new() }
    }

    fn numbers(assigned: Vec<AssignedPorts>) -> Vec<Vec<u16>> {
        assigned.into_iter().map(|label| label.ports).collect()
    }

    #[test]
    fn free_ports_form_one_block_handed_out_in_order() {
        let needs = [need("fixed", 200, 2), need("a", 0, 2), need("http", 0, 1)];
        let none = BTreeSet::new();
        let got = assign(&needs, &(100..=110), &host(&[101], None), &none).unwrap();
        assert_eq!(numbers(got), [vec![200, 201], vec![102, 103], vec![104]]);
        let got = assign(&needs[1..], &(100..=110), &host(&[], Some(105)), &none).unwrap();
        assert_eq!(numbers(got), [vec![106, 107], vec![108]]);
        let got = assign(&needs[1..], &(100..=110), &host(&[], Some(109)), &none).unwrap();
        assert_eq!(numbers(got), [vec![100, 101], vec![102]]);
    }

    #[test]
    fn fragments_are_better_than_waiting() {
        let used = host(&[101, 103, 105], Some(104));
        let got = assign(&[need("a", 0, 3)], &(100..=106), &used, &BTreeSet::new()).unwrap();
        assert_eq!(numbers(got), [vec![106, 100, 102]]);
        let short = assign(&[need("a", 0, 5)], &(100..=106), &used, &BTreeSet::new());
        assert_eq!(short, Err(PortShortage::Free { need: 5, have: 4 }));
    }

    #[test]
    fn numbers_asked_for_are_exact_and_left_alone_by_others() {
        let used = assign(&[need("a", 8000, 2)], &(1..=2), &host(&[8001], None), &BTreeSet::new());
        assert_eq!(used, Err(PortShortage::Used { port: 8001 }));
        let beyond = assign(&[need("a", 65535, 2)], &(1..=2), &host(&[], None), &BTreeSet::new());
        assert_eq!(beyond, Err(PortShortage::BeyondLast { begin_at: 65535, count: 2 }));
        let got = assign(&[need("a", 0, 2)], &(100..=105), &host(&[], None), &BTreeSet::from([101])).unwrap();
        assert_eq!(numbers(got), [vec![102, 103]]);
    }

    #[test]
    fn ports_of_somebody_else_are_left_alone_unless_asked_for_by_number() {
        let busy = HostPorts { busy: [101, 104].into(), ..host(&[], None) };
        let got = assign(&[need("a", 0, 2)], &(100..=105), &busy, &BTreeSet::new()).unwrap();
        assert_eq!(numbers(got), [vec![102, 103]]);
        let got = assign(&[need("a", 0, 4)], &(100..=105), &busy, &BTreeSet::new()).unwrap();
        assert_eq!(numbers(got), [vec![100, 102, 103, 105]]);
        let short = assign(&[need("a", 0, 5)], &(100..=105), &busy, &BTreeSet::new());
        assert_eq!(short, Err(PortShortage::Free { need: 5, have: 4 }));
        let got = assign(&[need("a", 101, 1)], &(100..=105), &busy, &BTreeSet::from([101])).unwrap();
        assert_eq!(numbers(got), [vec![101]]);
    }

    #[test]
    fn the_last_port_of_all_can_be_had() {
        let got = assign(&[need("a", 0, 1)], &(65534..=65535), &host(&[65534], Some(65535)), &BTreeSet::new());
        assert_eq!(numbers(got.unwrap()), [vec![65535]]);
    }

    proptest! {
        #[test]
        fn assigned_ports_are_free_and_distinct(
            used in proptest::collection::btree_set(100u16..130, 0..20),
            busy in proptest::collection::btree_set(100u16..130, 0..5),
            last in proptest::option::of(90u16..140),
            counts in proptest::collection::vec(1u16..5, 0..4),
        ) {
            let needs: Vec<PortSpec> = counts.iter().map(|count| need("l", 0, *count)).collect();
            let wanted: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let host = HostPorts { used, last, busy };
            let gone: BTreeSet<u16> = host.used.union(&host.busy).copied().collect();
            match assign(&needs, &(100..=129), &host, &BTreeSet::new()) {
                Ok(assigned) => {
                    let all: Vec<u16> = numbers(assigned).concat();
                    prop_assert_eq!(all.len(), wanted);
                    prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), wanted);
                    prop_assert!(all.iter().all(|port| !gone.contains(port) && (100..=129).contains(port)));
                }
                Err(_) => prop_assert!(30 - gone.len() < wanted),
            }
        }
    }
}
