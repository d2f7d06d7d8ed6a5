//! Which GPUs of a node a task gets: those that reach each other best, leaving the best for the next.
//!
//! A collective goes as fast as its slowest link, so the worst link of the set counts first, then all of its links by
//! class (NVLink over PCIe switch over NUMA node over the rest), then those of what is left, then the lowest
//! positions. Where there are few sets, all are looked at. Finding the best of many is a clique problem, so above
//! [`EXACT_SETS`] sets are grown greedily from each GPU, and the best of them is bettered by single exchanges: a matter
//! of milliseconds for hundreds of GPUs, as MIG slices may be.

use super::request::Request;
use super::snapshot::{GpuSlot, NodeSnapshot};
use crate::domain::gpu::LinkKind;
use std::cmp::Reverse;

/// Sets up to which every one is looked at: those of any size of 8 GPUs (70), and pairs of 16 (120).
pub const EXACT_SETS: usize = 128;

/// Links counted by class, 32 bits each, so that sums compare as the classes do however many there are: lanes of
/// NVLinks, PCIe switches, NUMA nodes; last, pairs within one NUMA node, which is a little better whatever the link.
type Links = u128;

/// Of a single link, what is left is its class.
const CLASS: Links = !0xffff_ffff;

/// How well a set is connected; greater is better. Single GPUs are as good as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quality {
    /// The class of the worst link.
    pub worst: u128,
    /// All links.
    pub total: u128,
}

/// Quality of the set, then all links of what is left.
type Rank = (Quality, Links);

fn links(node: &NodeSnapshot, a: usize, b: usize) -> Links {
    let class = match node.link(a, b) {
        LinkKind::System => 0,
        LinkKind::NumaNode => 1 << 32,
        LinkKind::PcieSwitch => 1 << 64,
        LinkKind::NvLink { lanes } => Links::from(lanes.max(1)) << 96,
    };
    let (a, b) = (&node.gpus[a].gpu.numa_node, &node.gpus[b].gpu.numa_node);
    class + Links::from(a.is_some() && a == b)
}

/// The best `count` of the `free` positions, in ascending order, and their quality; none if there are too few.
pub fn choose(node: &NodeSnapshot, free: &[usize], count: usize) -> Option<(Vec<usize>, Quality)> {
    if count > free.len() {
        return None;
    }
    let choice = Choice::of(node, free);
    let set = if count == 0 || count == free.len() {
        (0..count).collect()
    } else if sets_up_to(free.len(), count, EXACT_SETS) {
        choice.best_of_all(count)
    } else {
        choice.best_grown(count)
    };
    let (quality, _) = choice.rank(&set);
    Some((set.into_iter().map(|at| free[at]).collect(), quality))
}

/// Whether there are at most `limit` sets of `count` out of `of`.
fn sets_up_to(of: usize, count: usize, limit: usize) -> bool {
    let fewer = count.min(of - count);
    // After each step, the number of sets of one more: a whole number.
    let sets =
        (0..fewer).try_fold(1, |sets, taken| Some(sets * (of - taken) / (taken + 1)).filter(|sets| *sets <= limit));
    sets.is_some()
}

/// Free GPUs, which go by their place in the list here, and how they reach each other.
struct Choice {
    free: usize,
    /// Row by row.
    links: Vec<Links>,
    /// Of each GPU, to all others that are free.
    of_each: Vec<Links>,
    of_all: Links,
}

impl Choice {
    fn of(node: &NodeSnapshot, free: &[usize]) -> Self {
        let mut matrix = vec![0; free.len() * free.len()];
        for (row, a) in free.iter().enumerate() {
            for (column, b) in free.iter().enumerate().take(row) {
                let links = links(node, *a, *b);
                matrix[row * free.len() + column] = links;
                matrix[column * free.len() + row] = links;
            }
        }
        let of_each: Vec<Links> = matrix.chunks(free.len().max(1)).map(|row| row.iter().sum()).collect();
        let of_all = of_each.iter().sum::<Links>() / 2;
        Self { free: free.len(), links: matrix, of_each, of_all }
    }

    fn link(&self, a: usize, b: usize) -> Links {
        self.links[a * self.free + b]
    }

    fn rank(&self, set: &[usize]) -> Rank {
        let (mut quality, mut touched) = (Quality { worst: Links::MAX, total: 0 }, 0);
        for (position, a) in set.iter().enumerate() {
            touched += self.of_each[*a];
            for b in &set[..position] {
                let link = self.link(*a, *b);
                quality.worst = quality.worst.min(link & CLASS);
                quality.total += link;
            }
        }
        // Links within the set are touched from both ends.
        (quality, self.of_all + quality.total - touched)
    }

    /// Looks at every set; of equals, the first in order.
    fn best_of_all(&self, count: usize) -> Vec<usize> {
        let mut set: Vec<usize> = (0..count).collect();
        let (mut best, mut rank) = (set.clone(), self.rank(&set));
        // The next set in order: the last GPU that can move up does, and those behind it follow closely.
        while let Some(moved) = (0..count).rev().find(|at| set[*at] < self.free - count + at) {
            let next = set[moved] + 1;
            (moved..count).for_each(|at| set[at] = next + at - moved);
            let other = self.rank(&set);
            if other > rank {
                (best, rank) = (set.clone(), other);
            }
        }
        best
    }

    fn best_grown(&self, count: usize) -> Vec<usize> {
        let ranked = |set: Vec<usize>| (self.rank(&set), Reverse(set));
        let grown = (0..self.free).map(|seed| ranked(self.grown(seed, count))).max();
        let grown = grown.map_or_else(Vec::new, |(_, Reverse(set))| set);
        let first = (0..count).collect();
        let (_, Reverse(best)) = ranked(self.bettered(grown)).max(ranked(self.bettered(first)));
        best
    }

    /// Adds, from `seed` on, the GPU that makes the best set; of equals, the one that is missed least by the rest.
    fn grown(&self, seed: usize, count: usize) -> Vec<usize> {
        let mut set = vec![seed];
        let mut outside: Vec<(usize, Quality)> =
            (0..self.free).filter(|at| *at != seed).map(|at| (at, Quality { worst: Links::MAX, total: 0 })).collect();
        while set.len() < count {
            let newest = set[set.len() - 1];
            for (at, quality) in &mut outside {
                let link = self.link(*at, newest);
                quality.worst = quality.worst.min(link & CLASS);
                quality.total += link;
            }
            let rank = |(at, quality): &(usize, Quality)| (*quality, Reverse(self.of_each[*at]), Reverse(*at));
            let Some(next) = (0..outside.len()).max_by_key(|place| rank(&outside[*place])) else { break };
            set.push(outside.swap_remove(next).0);
        }
        set.sort_unstable();
        set
    }

    /// Exchanges one GPU at a time, the best exchange first, as long as that makes it better.
    fn bettered(&self, mut set: Vec<usize>) -> Vec<usize> {
        // Each exchange is for the better, so this ends; the limit is for time.
        for _ in 0..2 * set.len() {
            let Some((place, with)) = self.best_exchange(&set) else { break };
            set[place] = with;
        }
        set.sort_unstable();
        set
    }

    /// The place in the set and who takes it, if any exchange is for the better.
    fn best_exchange(&self, set: &[usize]) -> Option<(usize, usize)> {
        let now = self.rank(set);
        let mut best: Option<(Rank, usize, usize)> = None;
        let outside: Vec<usize> = (0..self.free).filter(|at| !set.contains(at)).collect();
        let mut rest = set.to_vec();
        for place in 0..set.len() {
            let gone = rest.remove(place);
            let (quality, left) = self.rank(&rest);
            for with in &outside {
                let to_rest = rest.iter().map(|at| self.link(*at, *with));
                let (worst, added) =
                    to_rest.fold((quality.worst, 0), |(worst, added), link| (worst.min(link & CLASS), added + link));
                // Of what is left without `gone`, the newcomer takes its links away, but for those to the set.
                let left = left + added - self.of_each[*with];
                let rank = (Quality { worst, total: quality.total + added }, left);
                if rank > best.map_or(now, |(rank, ..)| rank) {
                    best = Some((rank, place, *with));
                }
            }
            rest.insert(place, gone);
        }
        best.map(|(_, place, with)| (place, with))
    }
}

/// Positions of the free GPUs that the task may have: of one type if one type has enough (the request's types in order
/// of preference; without, the type with the fewest free that suffice), else of all accepted types.
pub fn candidates(node: &NodeSnapshot, request: &Request, count: usize) -> Vec<usize> {
    let types = &request.gpu_types;
    let wanted = |slot: &GpuSlot| slot.why_not.is_none() && !request.avoids(&slot.gpu);
    let free = || node.gpus.iter().enumerate().filter(|(_, slot)| wanted(slot));
    let accepted =
        |kind: &str| types.is_empty() || types.iter().any(|want| crate::domain::gpu::type_matches(want, kind));
    let all: Vec<usize> = free().filter(|(_, slot)| accepted(&slot.gpu.gpu_type)).map(|(at, _)| at).collect();
    let kind_of = |at: usize| node.gpus[at].gpu.gpu_type.as_str();
    let mixed = all.first().is_some_and(|first| all.iter().any(|at| kind_of(*at) != kind_of(*first)));
    if !mixed {
        return all;
    }
    let mut kinds: Vec<&str> = all.iter().map(|at| kind_of(*at)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let group = |kind: &str| all.iter().copied().filter(|at| kind_of(*at) == kind).collect::<Vec<usize>>();
    let preference = |kind: &str| {
        types.iter().position(|want| crate::domain::gpu::type_matches(want, kind)).unwrap_or(types.len())
    };
    let groups =
        kinds.into_iter().map(|kind| (preference(kind), group(kind))).filter(|(_, group)| group.len() >= count);
    groups.min_by_key(|(preference, group)| (*preference, group.len())).map_or(all, |(_, group)| group)
}
