//! The cheapest cut between two sides of a network: Dinic's algorithm.

use std::collections::VecDeque;

/// A network of vertices `0..n`.
pub struct Network {
    edges: Vec<Edge>,
    /// The edges out of each vertex. The edge `e ^ 1` goes the other way.
    out: Vec<Vec<usize>>,
}

struct Edge {
    to: usize,
    capacity: u64,
}

/// A capacity that no cut can pay.
pub const UNBOUNDED: u64 = u64::MAX / 4;

impl Network {
    pub fn new(vertices: usize) -> Network {
        Network { edges: Vec::new(), out: vec![Vec::new(); vertices] }
    }

    pub fn add_vertex(&mut self) -> usize {
        self.out.push(Vec::new());
        self.out.len() - 1
    }

    /// Having `a` on the near side and `b` on the far one costs `there`, the other way round `back`.
    pub fn connect(&mut self, a: usize, b: usize, there: u64, back: u64) {
        for (from, to, capacity) in [(a, b, there), (b, a, back)] {
            self.out[from].push(self.edges.len());
            self.edges.push(Edge { to, capacity });
        }
    }

    /// The cost of the cheapest cut between `source` and `sink`, and for each vertex whether it is on the side of the
    /// source, in the smallest such side. None if that is not found in as many `phases`, each of which takes linear time.
    pub fn cut(mut self, source: usize, sink: usize, phases: usize) -> Option<(u64, Vec<bool>)> {
        let mut cost = 0;
        for _ in 0..phases {
            let level = self.levels(source);
            if level[sink] == usize::MAX {
                return Some((cost, level.into_iter().map(|level| level != usize::MAX).collect()));
            }
            cost += self.block(source, sink, &level);
        }
        None
    }

    /// How far each vertex is from `source` over edges with capacity left.
    fn levels(&self, source: usize) -> Vec<usize> {
        let mut level = vec![usize::MAX; self.out.len()];
        level[source] = 0;
        let mut work = VecDeque::from([source]);
        while let Some(at) = work.pop_front() {
            for &edge in &self.out[at] {
                let Edge { to, capacity } = self.edges[edge];
                if capacity > 0 && level[to] == usize::MAX {
                    level[to] = level[at] + 1;
                    work.push_back(to);
                }
            }
        }
        level
    }

    /// Sends flow along shortest paths until each of them has a full edge.
    fn block(&mut self, source: usize, sink: usize, level: &[usize]) -> u64 {
        let mut next = vec![0; self.out.len()];
        let (mut path, mut sent): (Vec<usize>, u64) = (Vec::new(), 0);
        loop {
            let at = path.last().map_or(source, |&edge| self.edges[edge].to);
            if at == sink {
                let flow =
                    path.iter().map(|&edge| self.edges[edge].capacity).min().expect("the sink is another vertex");
                for &edge in &path {
                    self.edges[edge].capacity -= flow;
                    self.edges[edge ^ 1].capacity += flow;
                }
                sent += flow;
                let full = path.iter().position(|&edge| self.edges[edge].capacity == 0);
                path.truncate(full.expect("the narrowest edge is full"));
                continue;
            }
            let forward = |&edge: &usize| {
                let Edge { to, capacity } = self.edges[edge];
                capacity > 0 && level[to] == level[at] + 1
            };
            match self.out[at][next[at]..].iter().position(forward) {
                Some(skipped) => {
                    next[at] += skipped;
                    path.push(self.out[at][next[at]]);
                }
                None => {
                    next[at] = self.out[at].len();
                    let Some(edge) = path.pop() else { return sent };
                    next[self.edges[edge ^ 1].to] += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to part the vertices.
    fn cheapest(vertices: usize, edges: &[(usize, usize, u64, u64)]) -> u64 {
        let cost = |sides: usize| -> u64 {
            let near = |vertex: usize| sides >> vertex & 1 == 1;
            let of = |&(a, b, there, back): &_| match (near(a), near(b)) {
                (true, false) => there,
                (false, true) => back,
                _ => 0,
            };
            edges.iter().map(of).sum()
        };
        (0..1 << vertices).filter(|sides| sides & 3 == 1).map(cost).min().unwrap()
    }

    #[test]
    fn no_other_way_to_part_the_vertices_is_cheaper() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let vertices = 3 + random(5) as usize;
            let edges: Vec<_> = (0..2 * vertices)
                .map(|_| (random(vertices as u64) as usize, random(vertices as u64) as usize, random(4), random(4)))
                .filter(|(a, b, ..)| a != b)
                .collect();
            let mut network = Network::new(vertices);
            edges.iter().for_each(|&(a, b, there, back)| network.connect(a, b, there, back));
            let (cost, near) = network.cut(0, 1, 100).unwrap();
            assert_eq!(cost, cheapest(vertices, &edges));
            assert!(near[0] && !near[1]);
        }
    }
}
