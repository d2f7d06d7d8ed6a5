//! Which GPUs of a node a task gets: those that reach each other best, leaving the best for the next.
//!
//! A collective goes as fast as its slowest link, so the worst link of the set counts first, then the sum of all
//! its links, then the sum of what is left, then the lowest positions. Exact up to [`EXACT_UP_TO`] free GPUs
//! (70 sets of 4 of 8 at most); above, sets grown greedily from each GPU are compared.

use super::snapshot::NodeSnapshot;
use crate::domain::gpu::LinkKind;
use std::cmp::Reverse;

/// Free GPUs up to which every set is looked at.
pub const EXACT_UP_TO: usize = 8;

/// How well a set is connected; greater is better. Single GPUs are as good as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quality {
    /// Worth of the worst link.
    pub worst: u64,
    /// Worth of all links.
    pub total: u64,
}

/// The worth of a link. A class outweighs any number of links of the class below in 16 GPUs (120 pairs); within
/// one NUMA node is a little better, whatever the link.
fn worth(node: &NodeSnapshot, a: usize, b: usize) -> (u64, u64) {
    let class = match node.link(a, b) {
        LinkKind::System => 0,
        LinkKind::NumaNode => 200,
        LinkKind::PcieSwitch => 50_000,
        LinkKind::NvLink { lanes } => 10_000_000 * u64::from(lanes.max(1)),
    };
    let (a, b) = (&node.gpus[a].gpu.numa_node, &node.gpus[b].gpu.numa_node);
    (class, class + u64::from(a.is_some() && a == b))
}

fn quality(node: &NodeSnapshot, set: &[usize]) -> Quality {
    let mut quality = Quality { worst: u64::MAX, total: 0 };
    for (position, a) in set.iter().enumerate() {
        for b in &set[position + 1..] {
            let (class, worth) = worth(node, *a, *b);
            quality.worst = quality.worst.min(class);
            quality.total += worth;
        }
    }
    quality
}

/// The best `count` of the `free` positions, in ascending order, and their quality; none if there are too few.
pub fn choose(node: &NodeSnapshot, free: &[usize], count: usize) -> Option<(Vec<usize>, Quality)> {
    if count > free.len() {
        return None;
    }
    if count == free.len() || count == 0 {
        return Some((free[..count].to_vec(), quality(node, &free[..count])));
    }
    let best = if free.len() <= EXACT_UP_TO {
        (0u32..1 << free.len())
            .filter(|mask| mask.count_ones() as usize == count)
            .map(|mask| pick(free, mask))
            .max_by_key(|set| rank(node, free, set))
    } else {
        free.iter().map(|seed| grow(node, free, *seed, count)).max_by_key(|set| rank(node, free, set))
    };
    best.map(|set| {
        let quality = quality(node, &set);
        (set, quality)
    })
}

fn pick(free: &[usize], mask: u32) -> Vec<usize> {
    free.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, position)| *position).collect()
}

type Rank = (Quality, u64, Reverse<Vec<usize>>);

fn rank(node: &NodeSnapshot, free: &[usize], set: &[usize]) -> Rank {
    let rest: Vec<usize> = free.iter().copied().filter(|position| !set.contains(position)).collect();
    (quality(node, set), quality(node, &rest).total, Reverse(set.to_vec()))
}

/// Adds, from `seed` on, the GPU that makes the best set.
fn grow(node: &NodeSnapshot, free: &[usize], seed: usize, count: usize) -> Vec<usize> {
    let mut set = vec![seed];
    while set.len() < count {
        let with = |position: usize| {
            let mut grown = set.clone();
            grown.push(position);
            (quality(node, &grown), Reverse(position))
        };
        let next =
            free.iter().copied().filter(|position| !set.contains(position)).max_by_key(|position| with(*position));
        let Some(next) = next else { break };
        set.push(next);
    }
    set.sort_unstable();
    set
}

/// Positions of the free GPUs that the task may have: of one type if one type has enough (`types` in order of
/// preference; without, the type with the fewest free that suffice), else of all accepted types.
pub fn candidates(node: &NodeSnapshot, types: &[String], count: usize) -> Vec<usize> {
    let free = || node.gpus.iter().enumerate().filter(|(_, slot)| slot.why_not.is_none());
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
