//! Random graphs, as lists of what each node reads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// Neighbours of a node on the ring before rewiring: the paper's K.
const NEIGHBOURS: usize = 4;

/// Chance of an edge to be rewired, in quarters: the paper's P of 0.75.
const REWIRED_QUARTERS: u64 = 3;

/// A directed acyclic graph.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wiring {
    /// For each node the nodes it reads, which come before it; none for a first one.
    pub(super) sources: Vec<Vec<usize>>,
}

impl Wiring {
    /// Draws a connected Watts-Strogatz graph whose edges lead from lower to higher nodes.
    ///
    /// # Source
    /// Watts and Strogatz 1998, in the words of Xie et al. 2019, section 3.3. Graphs that
    /// are not connected are drawn again.
    pub(super) fn watts_strogatz(seed: u64, stage: u64, nodes: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stage);
        loop {
            let wiring = Self::from_edges(nodes, &draw(&mut rng, nodes));
            if wiring.is_connected() {
                return wiring;
            }
        }
    }

    fn from_edges(nodes: usize, edges: &BTreeSet<(usize, usize)>) -> Self {
        let mut sources = vec![Vec::new(); nodes];
        for &(from, to) in edges {
            sources[to].push(from);
        }
        Self { sources }
    }

    fn is_connected(&self) -> bool {
        let mut reached = vec![false; self.sources.len()];
        reached[0] = true;
        // Each round reaches at least one more node, or no round will.
        for _ in &self.sources {
            for (to, sources) in self.sources.iter().enumerate() {
                for &from in sources {
                    let either = reached[from] || reached[to];
                    (reached[from], reached[to]) = (either, either);
                }
            }
        }
        reached.into_iter().all(|reached| reached)
    }

    /// Lists the nodes that no node reads.
    pub(super) fn ends(&self) -> impl Iterator<Item = usize> {
        let read: BTreeSet<usize> = self.sources.iter().flatten().copied().collect();
        (0..self.sources.len()).filter(move |node| !read.contains(node))
    }
}

/// Draws the edges, each with its lower node first.
fn draw(rng: &mut ChaCha8Rng, nodes: usize) -> BTreeSet<(usize, usize)> {
    let edge = |a: usize, b: usize| (a.min(b), a.max(b));
    let steps = 1..=NEIGHBOURS / 2;
    let mut edges: BTreeSet<_> = steps
        .clone()
        .flat_map(|step| (0..nodes).map(move |node| edge(node, (node + step) % nodes)))
        .collect();
    for step in steps {
        for node in 0..nodes {
            if rng.next_u64() % 4 >= REWIRED_QUARTERS {
                continue;
            }
            let free: Vec<usize> = (0..nodes)
                .filter(|&other| other != node && !edges.contains(&edge(node, other)))
                .collect();
            if let Some(count) = free.len().checked_sub(1) {
                let chosen = free[(rng.next_u64() % (count as u64 + 1)) as usize];
                edges.remove(&edge(node, (node + step) % nodes));
                edges.insert(edge(node, chosen));
            }
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::Wiring;

    #[test]
    fn graphs_are_connected_acyclic_and_have_all_edges() {
        for seed in 0..50 {
            for nodes in [16, 32] {
                let wiring = Wiring::watts_strogatz(seed, 3, nodes);
                assert!(wiring.is_connected());
                assert_eq!(wiring.sources.len(), nodes);
                let edges: usize = wiring.sources.iter().map(Vec::len).sum();
                assert_eq!(edges, 2 * nodes, "rewiring keeps the number of edges");
                for (node, sources) in wiring.sources.iter().enumerate() {
                    assert!(sources.iter().all(|&source| source < node));
                }
                assert!(wiring.ends().any(|end| end == nodes - 1));
            }
        }
    }

    #[test]
    fn a_seed_and_a_stage_give_one_graph_and_others_another() {
        let graph = Wiring::watts_strogatz(1, 3, 32);
        assert_eq!(graph, Wiring::watts_strogatz(1, 3, 32));
        assert_ne!(graph, Wiring::watts_strogatz(2, 3, 32));
        assert_ne!(graph, Wiring::watts_strogatz(1, 4, 32));
    }
}
