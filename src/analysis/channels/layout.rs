//! Channels of what moves, joins, splits, repeats and pads.

use rten_shape_inference::SymExpr;

use super::Lane;
use super::classes::Pin;
use super::rules::{operand, result};
use super::walk::{Axes, LONGEST, Walk};
use crate::analysis::shapes::call::{place, places};
use crate::analysis::shapes::fixed_length;
use crate::ir::{Attr, NodeId, ValueId};

impl Walk<'_> {
    pub fn transposed(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let x = self.axes_of(operand(node, 0)?);
        let perm = match node.attrs.get("perm") {
            Some(Attr::Ints(perm)) => places(perm, x.len()).filter(|perm| perm.len() == x.len())?,
            Some(_) => return None,
            None => (0..x.len()).rev().collect(),
        };
        Some(perm.into_iter().map(|axis| x[axis]).collect())
    }

    pub fn joined(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let parts: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let all: Vec<Axes> = parts.iter().map(|&part| self.axes_of(part)).collect();
        let rank = all.first()?.len();
        let axis = place(self.call(node).attrs().int("axis", 1), rank)?;
        if all.iter().any(|axes| axes.len() != rank) {
            return None;
        }
        let pin = Pin::Node(id, "a length beside them is not followed");
        let mut axes = all[0].clone();
        for other in (0..rank).filter(|&other| other != axis) {
            for lanes in &all[1..] {
                self.meet(axes[other], lanes[other], pin);
                axes[other] = axes[other].and(lanes[other]);
            }
        }
        let along: Vec<Option<Lane>> = all.iter().map(|axes| axes[axis]).collect();
        let lengths: Option<Vec<usize>> = parts.iter().map(|&part| self.length(part, axis)).collect();
        axes[axis] = match lengths {
            Some(lengths) if along.iter().any(Option::is_some) && lengths.iter().sum::<usize>() <= LONGEST => {
                let mut joined = Vec::new();
                for (lane, length) in along.iter().zip(lengths) {
                    match lane {
                        Some(lane) => joined.extend_from_slice(self.channels(*lane)),
                        None => {
                            let held = self.sets.fresh(1)[0];
                            self.sets.pin(held, pin);
                            joined.resize(joined.len() + length, held);
                        }
                    }
                }
                Some(self.lane(joined))
            }
            _ => {
                self.pin_some(&along, pin);
                None
            }
        };
        Some(axes)
    }

    pub fn split(&mut self, id: NodeId) -> Option<Vec<Axes>> {
        let node = self.model.node(id);
        let x = self.axes_of(operand(node, 0)?);
        let axis = place(self.call(node).attrs().int("axis", 0), x.len())?;
        let Some(lane) = x[axis] else { return Some(vec![x; node.outputs.len()]) };
        let lengths = node.outputs.iter().map(|output| self.length((*output)?, axis)).collect::<Option<Vec<_>>>();
        let channels = self.channels(lane).to_vec();
        let Some(lengths) = lengths.filter(|lengths| lengths.iter().sum::<usize>() == channels.len()) else {
            self.pin(lane, Pin::Node(id, "the lengths of its parts are not known"));
            let mut x = x;
            x[axis] = None;
            return Some(vec![x; node.outputs.len()]);
        };
        let mut rest = &channels[..];
        let part = |length: usize| {
            let (part, behind) = rest.split_at(length);
            rest = behind;
            let mut axes = x.clone();
            axes[axis] = (length > 1).then(|| self.lane(part.to_vec()));
            if length == 1 {
                self.sets.pin(part[0], Pin::Node(id, "one of its parts is a single channel"));
            }
            axes
        };
        Some(lengths.into_iter().map(part).collect())
    }

    pub fn sliced(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let mut x = self.axes_of(operand(node, 0)?);
        let ranges = self.call(node).slices()?;
        let is_constant = node.inputs[1..].iter().flatten().all(|&bound| self.model.constant(bound).is_some());
        for range in ranges {
            let Some(lane) = x[range.axis] else { continue };
            let channels = self.channels(lane).to_vec();
            let positions = range.positions(channels.len() as i64).map(|all| all.collect::<Vec<_>>());
            x[range.axis] = match positions {
                Some(all) if all.len() == channels.len() && range.step == 1 => Some(lane),
                Some(all) if is_constant && range.step == 1 && all.len() > 1 => {
                    Some(self.lane(all.iter().map(|&at| channels[at as usize]).collect()))
                }
                _ => {
                    self.pin(lane, Pin::Node(id, "it takes single ones of them"));
                    None
                }
            };
        }
        Some(x)
    }

    pub fn padded(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let mut x = self.axes_of(operand(node, 0)?);
        let call = self.call(node);
        let fills = call.attrs().text("mode").is_none_or(|mode| mode == "constant");
        let pads = call.ints(1);
        let axes = match operand(node, 3) {
            Some(_) => call.ints(3).and_then(|axes| places(&axes, x.len())),
            None => Some((0..x.len()).collect()),
        };
        let is_constant = operand(node, 1).is_some_and(|pads| self.model.constant(pads).is_some());
        let pin = Pin::Node(id, "it pads them");
        let (Some(pads), Some(axes)) = (pads, axes) else {
            self.pin_some(&x, pin);
            return Some(vec![None; x.len()]);
        };
        if pads.len() != 2 * axes.len() {
            return None;
        }
        for (at, &axis) in axes.iter().enumerate() {
            let (Some(lane), [before, behind]) = (x[axis], [pads[at], pads[axes.len() + at]]) else { continue };
            x[axis] = match (before, behind) {
                (0, 0) => Some(lane),
                (0.., 0..) if fills && is_constant && before + behind <= LONGEST as i64 => {
                    let channels = self.channels(lane).to_vec();
                    let [before, behind] = [before, behind].map(|count| self.sets.fresh(count as usize));
                    Some(self.lane([before, channels, behind].concat()))
                }
                _ => {
                    self.pin(lane, pin);
                    None
                }
            };
        }
        Some(x)
    }

    /// Axes that keep their length are not resized.
    pub fn resized(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (x, y) = (operand(node, 0)?, result(node)?);
        let mut axes = self.axes_of(x);
        let sizes = operand(node, 3).map(|sizes| self.shapes.elements(sizes).is_some());
        let stretches = !node.attrs.contains_key("keep_aspect_ratio_policy");
        for (axis, followed) in axes.iter_mut().enumerate() {
            let Some(lane) = *followed else { continue };
            let stays = self.length(x, axis).is_some() && self.length(x, axis) == self.length(y, axis);
            if !(stays && sizes.unwrap_or(true) && stretches) {
                self.pin(lane, Pin::Node(id, "it works along them"));
                *followed = None;
            }
        }
        Some(axes)
    }

    /// What is repeated along an axis is new channels; other axes keep theirs.
    pub fn expanded(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (x, y, target) = (operand(node, 0)?, result(node)?, operand(node, 1)?);
        let (lanes, lengths) = (self.axes_of(x), self.lengths(y));
        let known = self.shapes.elements(target);
        let new = lengths.len().checked_sub(lanes.len())?;
        let mut axes = Vec::new();
        for (axis, length) in lengths.iter().enumerate() {
            let own = axis.checked_sub(new).filter(|&own| self.length(x, own) != Some(1));
            let place = known.and_then(|target| target.get((axis + target.len()).checked_sub(lengths.len())?));
            axes.push(match own {
                Some(own) => {
                    // The target has the length too, or 1; it must be known to be cut.
                    if known.is_none() {
                        self.pin_some(&lanes[own..=own], Pin::Node(id, "its target is not known"));
                    }
                    lanes[own]
                }
                None => match (place, fixed_length(length)) {
                    (Some(SymExpr::Value(_)), Some(n)) if n > 1 && n <= LONGEST => Some(self.fresh(n)),
                    _ => None,
                },
            });
        }
        Some(axes)
    }

    pub fn filled(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let known = self.shapes.elements(operand(node, 0)?);
        let lengths = self.lengths(result(node)?);
        let Some(known) = known else { return Some(vec![None; lengths.len()]) };
        let lane = |(length, element): (&SymExpr, &SymExpr)| match (fixed_length(length), element) {
            (Some(n), SymExpr::Value(_)) if n > 1 && n <= LONGEST => Some(self.fresh(n)),
            _ => None,
        };
        Some(lengths.iter().zip(known).map(lane).collect())
    }

    pub fn tiled(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let mut x = self.axes_of(operand(node, 0)?);
        let repeats = self.call(node).ints(1).filter(|repeats| repeats.len() == x.len());
        for (axis, followed) in x.iter_mut().enumerate() {
            let Some(lane) = *followed else { continue };
            let channels = self.channels(lane).to_vec();
            let times = repeats.as_ref().and_then(|all| usize::try_from(all[axis]).ok());
            *followed = match times.filter(|times| times * channels.len() <= LONGEST) {
                Some(1) => Some(lane),
                Some(times) if times > 0 => Some(self.lane(channels.repeat(times))),
                _ => {
                    self.pin(lane, Pin::Node(id, "how often it repeats them is not known"));
                    None
                }
            };
        }
        Some(x)
    }

    /// Channels that become positions, and the other way round, go with those that they are put beside.
    pub fn moved_to_space(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let mut x = self.axes_of(operand(node, 0)?);
        let block = usize::try_from(self.call(node).attrs().int("blocksize", 0)).ok().filter(|&n| n > 0)?;
        let columns_first = self.call(node).attrs().text("mode").is_some_and(|mode| mode == "CRD");
        let (area, spatial) = (block * block, x.get(2..)?.to_vec());
        self.pin_some(&spatial, Pin::Node(id, "it works along them"));
        x[2..].fill(None);
        let Some(lane) = x[1] else { return Some(x) };
        let channels = self.channels(lane).to_vec();
        if node.op == "SpaceToDepth" {
            x[1] = Some(self.lane(channels.repeat(area)));
            return Some(x);
        }
        let each = channels.len() / area;
        let of = |index: usize| if columns_first { index / area } else { index % each };
        let mut kept = vec![None; each];
        for (index, &channel) in channels.iter().enumerate() {
            match kept[of(index)] {
                None => kept[of(index)] = Some(channel),
                Some(first) => self.sets.unite(first, channel),
            }
        }
        let kept: Vec<u32> = kept.into_iter().flatten().collect();
        x[1] = match kept.len() {
            1 => {
                self.sets.pin(kept[0], Pin::Node(id, "a single channel is left"));
                None
            }
            _ => Some(self.lane(kept)),
        };
        Some(x)
    }
}
