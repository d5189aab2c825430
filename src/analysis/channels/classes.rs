//! Sets of channels that go together, and what holds them.

use crate::ir::{NodeId, ValueId};

/// Why channels cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pin {
    /// No weight has them, or no node gives them: nothing is gained by cutting them.
    Nobody,
    /// They are those of an input of the model.
    Input(ValueId),
    /// They are those of an output.
    Output(ValueId),
    /// A node needs them all, for this reason.
    Node(NodeId, &'static str),
}

/// A union-find of channels. A set is pinned where one of its channels is.
#[derive(Default)]
pub struct Sets {
    parent: Vec<u32>,
    /// For each root, one more than the place of what pins it.
    pinned: Vec<u32>,
    pins: Vec<Pin>,
}

impl Sets {
    pub fn fresh(&mut self, count: usize) -> Vec<u32> {
        let first = u32::try_from(self.parent.len()).expect("too many channels");
        let end = u32::try_from(self.parent.len() + count).expect("too many channels");
        self.parent.extend(first..end);
        self.pinned.resize(self.parent.len(), 0);
        (first..end).collect()
    }

    pub fn len(&self) -> usize {
        self.parent.len()
    }

    pub fn find(&mut self, mut set: u32) -> u32 {
        while self.parent[set as usize] != set {
            let above = self.parent[self.parent[set as usize] as usize];
            self.parent[set as usize] = above;
            set = above;
        }
        set
    }

    /// The older channel stays the root, so that results do not depend on the order of unions.
    pub fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            let pins = [a, b].map(|root| self.pinned[root as usize]);
            self.parent[a.max(b) as usize] = a.min(b);
            self.pinned[a.min(b) as usize] = self.stronger(pins);
        }
    }

    pub fn pin(&mut self, set: u32, pin: Pin) {
        let root = self.find(set) as usize;
        if self.pins.last() != Some(&pin) {
            self.pins.push(pin);
        }
        self.pinned[root] = self.stronger([self.pinned[root], self.pins.len() as u32]);
    }

    pub fn pin_of(&mut self, set: u32) -> Option<Pin> {
        let root = self.find(set) as usize;
        self.place(self.pinned[root])
    }

    fn place(&self, pinned: u32) -> Option<Pin> {
        Some(self.pins[pinned.checked_sub(1)? as usize])
    }

    /// Inputs and outputs explain more than a node between them; of nodes the first does.
    fn stronger(&self, [a, b]: [u32; 2]) -> u32 {
        let key = |pinned: u32| match self.place(pinned) {
            Some(Pin::Input(_)) => 0,
            Some(Pin::Output(_)) => 1,
            Some(Pin::Node(..)) => 2,
            Some(Pin::Nobody) => 3,
            None => 4,
        };
        if key(b) < key(a) { b } else { a }
    }
}
