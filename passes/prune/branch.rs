//! Residual branches: y = x + f(x), where f has a layer. Without its branch, y is x.
//!
//! f may read other things besides x, a mask, say, or what an encoder gave. What it computes from x is for y alone, so that all of
//! it goes with the branch.

use std::collections::{HashMap, HashSet};

use crate::analysis::Shapes;
use crate::ir::op::Add;
use crate::ir::{Model, Node, NodeId, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss};

/// Operators that make a branch of what would else be an activation that is written out, as x + 0.04·x³ is.
const LAYERS: &[&str] = &[
    "Attention",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "Einsum",
    "GRU",
    "Gemm",
    "LSTM",
    "MatMul",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
];

pub struct Branch {
    /// The sum.
    pub add: NodeId,
    /// Which operand of the sum f is: 0 or 1.
    pub place: usize,
    /// What goes with the branch, without the sum, in the order it runs.
    pub nodes: Vec<NodeId>,
}

impl Branch {
    /// What the branch adds.
    pub fn result(&self, model: &Model) -> ValueId {
        model.node(self.add).inputs[self.place].expect("a sum has two operands")
    }

    /// What it adds to, and reads.
    pub fn shortcut(&self, model: &Model) -> ValueId {
        model.node(self.add).inputs[1 - self.place].expect("a sum has two operands")
    }

    /// The layers of the branch.
    pub fn layers<'m>(&self, model: &'m Model) -> impl Iterator<Item = NodeId> + use<'_, 'm> {
        self.nodes.iter().copied().filter(|&node| is_layer(model.node(node)))
    }

    /// Lets the sum be its shortcut, and removes what nothing reads any more. Returns false where the sum and its shortcut both have
    /// names that are seen from outside.
    pub fn remove(&self, model: &mut Model) -> bool {
        let sum = model.node(self.add).outputs[0].expect("a sum has a result");
        let shortcut = self.shortcut(model);
        model.unify(sum, shortcut)
    }
}

fn is_layer(node: &Node) -> bool {
    node.domain.is_empty() && LAYERS.contains(&node.op.as_str())
}

/// All branches that can be removed, in the order of their sums. `miss` is told of those that cannot, and why.
pub fn branches(model: &Model, shapes: &Shapes, mut miss: impl FnMut(NodeId, Miss)) -> Vec<Branch> {
    let order: Vec<NodeId> = model.nodes_of(model.main).collect();
    let positions: HashMap<NodeId, usize> = order.iter().enumerate().map(|(at, &node)| (node, at)).collect();
    let search = Search { model, shapes, order, positions };
    let mut found = Vec::new();
    for &add in &search.order {
        match search.branch(add) {
            Some(Ok(branch)) => found.push(branch),
            Some(Err(why)) => miss(add, why),
            None => {}
        }
    }
    found
}

struct Search<'m> {
    model: &'m Model,
    shapes: &'m Shapes,
    order: Vec<NodeId>,
    positions: HashMap<NodeId, usize>,
}

impl Search<'_> {
    /// The branch of a sum; none where it has none.
    fn branch(&self, add: NodeId) -> Option<Match<Branch>> {
        let Self { model, shapes, .. } = *self;
        let Add { a, b } = model.view(add)?;
        let y = model.node(add).outputs[0]?;
        if a == b || [a, b].iter().any(|&operand| model.constant(operand).is_some()) {
            return None;
        }
        // What is computed from the other is computed later.
        let (x, f, place) = if self.behind(a) <= self.behind(b) { (a, b, 1) } else { (b, a, 0) };
        if !shapes.same_shape(x, y) {
            return None;
        }
        let nodes = self.between(x, f);
        if !nodes.iter().any(|&node| is_layer(model.node(node))) {
            return None;
        }
        Some(self.checked(Branch { add, place, nodes }))
    }

    /// The position behind the node that gives `value`.
    fn behind(&self, value: ValueId) -> usize {
        self.model.producer(value).and_then(|node| self.positions.get(&node)).map_or(0, |position| position + 1)
    }

    /// The nodes that compute `f` from what `x` holds. A size of x is no part of what it holds.
    fn between(&self, x: ValueId, f: ValueId) -> Vec<NodeId> {
        let span = &self.order[self.behind(x)..self.behind(f).max(self.behind(x))];
        let mut from = HashSet::from([x]);
        let mut forward = Vec::new();
        for &id in span {
            let node = self.model.node(id);
            let is_size = matches!(node.op.as_str(), "Shape" | "Size") && node.domain.is_empty();
            let reads = |&value: &ValueId| from.contains(&value) && !(is_size && value == x);
            if node.inputs.iter().flatten().any(reads) {
                from.extend(node.outputs.iter().flatten());
                forward.push(id);
            }
        }
        let mut needed = HashSet::from([f]);
        let mut nodes: Vec<NodeId> = Vec::new();
        for &id in forward.iter().rev() {
            let node = self.model.node(id);
            if node.outputs.iter().flatten().any(|output| needed.contains(output)) {
                needed.extend(node.inputs.iter().flatten());
                nodes.push(id);
            }
        }
        nodes.reverse();
        nodes
    }

    fn checked(&self, branch: Branch) -> Match<Branch> {
        let Self { model, shapes, .. } = *self;
        let y = model.node(branch.add).outputs[0].expect("a sum has a result");
        let inner: HashSet<NodeId> = branch.nodes.iter().copied().chain([branch.add]).collect();
        let values = branch.nodes.iter().flat_map(|&node| model.node(node).outputs.iter().flatten());
        for place in values.flat_map(|&value| &model.value(value).uses) {
            match place {
                Use::Output(..) => return Err(Miss("a value inside of the branch is an output")),
                Use::Node(reader, _) => {
                    require!(inner.contains(reader), "a value inside of the branch is read elsewhere, too");
                }
            }
        }
        let is_float = shapes.dtype(y).is_some_and(|dtype| dtype.is_float());
        require!(is_float, "it adds no floats, or their type is not known");
        let shortcut = branch.shortcut(model);
        require!(model.can_unify(y, shortcut), "both the sum and its shortcut are inputs or outputs of the model");
        Ok(branch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums with a branch, and what misses tell of others.
    fn found(body: &str, outputs: &str) -> (Vec<String>, Vec<&'static str>) {
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            net (float[N,2] given, float[1,2] mask) => ({outputs})
            <float[2,2] a = {{1, 2, 3, 4}}, float[2,2] b = {{1, 0, 2, 1}}, float[2] c = {{1, 2}}, float cube = {{3}}>
            {{ x = Tanh (given) {body} }}"#
        );
        let model = Model::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let mut misses = Vec::new();
        let branches = branches(&model, &Shapes::infer(&model), |_, miss| misses.push(miss.0));
        let name = |branch: &Branch| model.value(model.node(branch.add).outputs[0].unwrap()).name.clone();
        (branches.iter().map(name).collect(), misses)
    }

    fn names(body: &str) -> Vec<String> {
        found(body, "float[N,2] y").0
    }

    #[test]
    fn a_sum_of_a_value_and_what_layers_make_of_it_is_a_branch() {
        assert_eq!(names("p = MatMul (x, a) y = Add (p, x)"), ["y"]);
        assert_eq!(names("p = MatMul (x, a) q = Relu (p) r = MatMul (q, b) s = Add (x, r) y = Relu (s)"), ["s"]);
        assert_eq!(names("p = Add (x, mask) q = MatMul (p, a) m = Mul (q, mask) y = Add (p, m)"), ["y"]);
        let nested = "p = MatMul (x, a) q = MatMul (p, b) r = Add (p, q) s = MatMul (r, a) y = Add (x, s)";
        assert_eq!(names(nested), ["r", "y"]);
    }

    #[test]
    fn other_sums_are_none() {
        // A projection on the shortcut, a bias, an activation that is written out, and another shape.
        assert_eq!(names("p = MatMul (x, a) q = MatMul (x, b) y = Add (p, q)"), [""; 0]);
        assert_eq!(names("p = MatMul (x, a) y = Add (p, c)"), [""; 0]);
        assert_eq!(names("p = MatMul (x, a) q = Pow (p, cube) y = Add (p, q)"), [""; 0]);
        assert_eq!(names("p = MatMul (mask, a) q = Add (p, x) y = Add (p, q)"), [""; 0]);
        // The size of a value is no part of it.
        assert_eq!(names("n = Shape (x) p = ConstantOfShape (n) q = MatMul (p, a) y = Add (x, q)"), [""; 0]);
    }

    #[test]
    fn branches_whose_values_are_needed_elsewhere_are_held() {
        let inner = "p = MatMul (x, a) q = MatMul (p, b) y = Add (x, q)";
        let held = |why| (vec![], vec![why]);
        assert_eq!(found(inner, "float[N,2] y, float[N,2] p"), held("a value inside of the branch is an output"));
        let read = "p = MatMul (x, a) q = MatMul (p, b) r = Add (x, q) y = Mul (r, p)";
        assert_eq!(found(read, "float[N,2] y"), held("a value inside of the branch is read elsewhere, too"));
        let sized = "p = MatMul (x, a) n = Shape (p) q = MatMul (p, b) r = Add (x, q) y = Expand (r, n)";
        assert_eq!(found(sized, "float[N,2] y"), held("a value inside of the branch is read elsewhere, too"));
        let of_input = "p = MatMul (given, a) q = Add (given, p) y = Add (q, x)";
        assert_eq!(
            found(of_input, "float[N,2] y, float[N,2] q").1,
            ["both the sum and its shortcut are inputs or outputs of the model"]
        );
    }
}
