//! Channels of recurrent layers.
//!
//! A place of the state is one row of W and of R in each gate, the column of R that it is multiplied with in the next step, and
//! one channel of what is given. Both directions have one such place in each of their operands: it goes from both.

use super::classes::Pin;
use super::rules::operand;
use super::walk::{Axes, Walk};
use crate::ir::NodeId;

impl Walk<'_> {
    /// A layer with so many rows of W for each place of its state.
    pub fn recurrent(&mut self, id: NodeId, gates: usize) -> Option<Vec<Axes>> {
        let node = self.model.node(id);
        let [x, w, r] = [operand(node, 0)?, operand(node, 1)?, operand(node, 2)?];
        let ([steps, samples, inputs], [_, _, columns], [_, _, state]) = (
            self.axes_of(x)[..].try_into().ok()?,
            self.axes_of(w)[..].try_into().ok()?,
            self.axes_of(r)[..].try_into().ok()?,
        );
        let pin = Pin::Node(id, "it works along them");
        self.pin_some(&[steps, samples], pin);
        if self.length(w, 2) != Some(1) {
            self.meet(inputs, columns, Pin::Node(id, "its input has channels that are not followed"));
        }
        // Operands, the axis of each on which the state lies, and how often.
        let sides = [(1, 1, gates), (2, 1, gates), (3, 1, 2 * gates), (5, 2, 1), (6, 2, 1), (7, 1, 3)];
        for (index, axis, times) in sides {
            let Some(value) = operand(node, index) else { continue };
            let lanes = self.axes_of(value);
            let own = lanes.get(axis).copied()?;
            // Of W and R the last axis is another matter.
            let others = lanes.iter().enumerate().filter(|(other, _)| *other != axis && (*other != 2 || index > 2));
            let others: Vec<_> = others.map(|(_, &lane)| lane).collect();
            self.pin_some(&others, pin);
            let repeated = state.map(|state| match times {
                1 => state,
                _ => self.lane(self.channels(state).repeat(times)),
            });
            self.meet(repeated, own, Pin::Node(id, "its state is not followed"));
        }
        if let Some(lengths) = operand(node, 4) {
            self.pin_all(lengths, pin);
        }
        let given = |index: usize| if index == 0 { vec![None, None, None, state] } else { vec![None, None, state] };
        Some((0..node.outputs.len()).map(given).collect())
    }
}
