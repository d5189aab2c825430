//! What a model costs: parameters, multiply-accumulates and bytes of weights, layer by layer.
//!
//! Multiply-accumulates are those of convolutions, matrix products, attention and recurrent layers, as the field counts
//! them; elementwise operators and reductions count as none. Bodies count once: a loop for one round, an `If` for each
//! of its branches. A weight that several layers share counts where it is read first. Calls of functions are not
//! followed: inline them first.

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_shape_inference::SymExpr;

use super::Shapes;
use crate::ir::{Attr, GraphId, Initializer, Model, Node, NodeId, SparseTensor, Tensor, ValueDef, ValueId};

#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Every node but constants, in execution order, bodies behind their node.
    pub layers: Vec<LayerCost>,
    /// Elements of all weights, each once.
    pub parameters: u64,
    /// Bytes of all weights, each once.
    pub weight_bytes: u64,
    /// The sum over layers where it is known.
    pub macs: u64,
    /// Symbolic sizes that were taken as 1.
    pub taken_as_one: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerCost {
    pub node: NodeId,
    pub parameters: u64,
    pub weight_bytes: u64,
    /// None where shapes are not known, and for operators of other domains.
    pub macs: Option<u64>,
}

impl Cost {
    /// Counts with open sizes of the inputs taken as 1; [`Shapes::infer_with`] fixes them.
    pub fn of(model: &Model, shapes: &Shapes) -> Cost {
        let mut count = Count::new(model, shapes);
        let graphs = model.all_graphs().filter(|&graph| model.graph(graph).parent.is_none());
        graphs.for_each(|graph| count.walk(graph));
        count.remaining_weights();
        count.cost
    }
}

struct Count<'m> {
    model: &'m Model,
    shapes: &'m Shapes,
    counted: HashSet<ValueId>,
    /// Names of the sizes that inputs leave open without naming them.
    unnamed: HashSet<String>,
    cost: Cost,
}

impl<'m> Count<'m> {
    fn new(model: &'m Model, shapes: &'m Shapes) -> Count<'m> {
        let inputs = model.graph(model.main).inputs.iter().filter_map(|&input| shapes.lengths(input)).flatten();
        let unnamed = inputs.filter_map(|length| match length {
            SymExpr::Var(symbol) if symbol.synthetic => Some(symbol.name.clone()),
            _ => None,
        });
        let cost = Cost { layers: Vec::new(), parameters: 0, weight_bytes: 0, macs: 0, taken_as_one: BTreeSet::new() };
        Count { model, shapes, counted: HashSet::new(), unnamed: unnamed.collect(), cost }
    }

    fn walk(&mut self, graph: GraphId) {
        let model = self.model;
        for id in model.nodes_of(graph).filter(|&id| !model.node(id).is_constant()) {
            let node = model.node(id);
            let (mut parameters, mut weight_bytes) = (0, 0);
            for &operand in node.inputs.iter().flatten() {
                if let Some([elements, bytes]) = self.weight(operand) {
                    parameters += elements;
                    weight_bytes += bytes;
                }
            }
            let macs = if node.domain.is_empty() { self.macs(node) } else { None };
            self.cost.macs = self.cost.macs.saturating_add(macs.unwrap_or(0));
            self.cost.parameters += parameters;
            self.cost.weight_bytes += weight_bytes;
            self.cost.layers.push(LayerCost { node: id, parameters, weight_bytes, macs });
            node.bodies().for_each(|body| self.walk(body));
        }
    }

    /// Elements and bytes of `value`, if it is a weight that has not been counted yet.
    fn weight(&mut self, value: ValueId) -> Option<[u64; 2]> {
        let size = match &self.model.value(value).def {
            ValueDef::Constant(tensor) | ValueDef::Input { default: Some(Initializer::Dense(tensor)) } => dense(tensor),
            ValueDef::Sparse(tensor) | ValueDef::Input { default: Some(Initializer::Sparse(tensor)) } => sparse(tensor),
            ValueDef::Input { default: None } => return None,
            ValueDef::Node(node) => self.model.node(*node).constant_size()?,
        };
        self.counted.insert(value).then_some(size)
    }

    /// Counts the weights that no layer reads: those that are outputs.
    fn remaining_weights(&mut self) {
        for (value, _) in self.model.all_values() {
            if let Some([elements, bytes]) = self.weight(value) {
                self.cost.parameters += elements;
                self.cost.weight_bytes += bytes;
            }
        }
    }

    fn macs(&mut self, node: &Node) -> Option<u64> {
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        match node.op.as_str() {
            // Each element of the result is a product of the channels of its group with the kernel.
            "Conv" | "ConvInteger" | "DeformConv" => self.over_kernel(result(node)?, operand(1)?),
            "QLinearConv" => self.over_kernel(result(node)?, operand(3)?),
            // Each element of the input goes through the kernel to the channels of its group.
            "ConvTranspose" => self.over_kernel(operand(0)?, operand(1)?),
            // Each element of the result is a product over the last axis of the left operand.
            "MatMul" | "MatMulInteger" | "QLinearMatMul" => {
                let depth = self.lengths(operand(0)?)?.last()?;
                self.elements(result(node)?)?.checked_mul(self.number(depth)?)
            }
            "Gemm" => {
                let a = self.lengths(operand(0)?)?;
                let transposed = matches!(node.attrs.get("transA"), Some(Attr::Int(1)));
                let depth = a.get(usize::from(!transposed))?;
                self.elements(result(node)?)?.checked_mul(self.number(depth)?)
            }
            "Einsum" => self.einsum(node),
            "Attention" => self.attention(node),
            // Every step multiplies an input row with W and a state with R, in each direction.
            "LSTM" | "GRU" | "RNN" => {
                let x = self.lengths(operand(0)?)?;
                let rows = self.number(x.first()?)?.checked_mul(self.number(x.get(1)?)?)?;
                let weights = self.elements(operand(1)?)?.checked_add(self.elements(operand(2)?)?)?;
                rows.checked_mul(weights)
            }
            _ => Some(0),
        }
    }

    fn over_kernel(&mut self, moved: ValueId, kernel: ValueId) -> Option<u64> {
        let kernel = self.lengths(kernel)?;
        let each = self.product(kernel.get(1..)?)?;
        self.elements(moved)?.checked_mul(each)
    }

    /// Operands are multiplied from the left, each time over all labels of both; what no later operand and not the
    /// result has is summed up.
    fn einsum(&mut self, node: &Node) -> Option<u64> {
        let Some(Attr::Str(equation)) = node.attrs.get("equation") else { return None };
        let equation: String = std::str::from_utf8(equation).ok()?.split_whitespace().collect();
        let (left, right) = equation.split_once("->").map_or((&*equation, None), |(left, right)| (left, Some(right)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != node.inputs.len() {
            return None;
        }
        let (mut lengths, mut labels) = (HashMap::new(), Vec::new());
        for (term, operand) in terms.into_iter().zip(&node.inputs) {
            let operand = self.lengths((*operand)?)?;
            let term = einsum_labels(term, operand.len())?;
            for (&label, length) in term.iter().zip(operand) {
                let length = self.number(length)?;
                let longest = lengths.entry(label).or_insert(length);
                *longest = length.max(*longest);
            }
            labels.push(term);
        }
        let count = |label: &Label| labels.iter().flatten().filter(|other| *other == label).count();
        let stays = |label: &Label| match (label, right) {
            (Label::Letter(letter), Some(right)) => right.contains(*letter),
            (Label::Letter(_), None) => count(label) == 1,
            (Label::Ellipsis(_), right) => right.is_none_or(|right| right.contains("...")),
        };
        let mut operands = labels.iter();
        let mut product: BTreeSet<Label> = operands.next()?.iter().copied().collect();
        let mut macs = 0u64;
        while let Some(operand) = operands.next() {
            product.extend(operand);
            let size = product.iter().try_fold(1u64, |size, label| size.checked_mul(lengths[label]))?;
            macs = macs.checked_add(size)?;
            product.retain(|label| stays(label) || operands.clone().flatten().any(|later| later == label));
        }
        Some(macs)
    }

    /// Q·Kᵀ and the product of the weights with V, for each query and key, those of the past among them.
    fn attention(&mut self, node: &Node) -> Option<u64> {
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let [q, k, v] = [self.lengths(operand(0)?)?, self.lengths(operand(1)?)?, self.lengths(operand(2)?)?];
        let heads = |name: &str| match node.attrs.get(name) {
            Some(Attr::Int(heads)) => u64::try_from(*heads).ok(),
            _ => None,
        };
        // For each sample, how many numbers of queries and of weighted values there are in all heads of one position.
        let (batch, queries, keys, widths) = match (q, k, v) {
            ([batch, heads, queries, width], [_, _, keys, _], [_, _, _, values]) => {
                let widths = self.number(width)?.checked_add(self.number(values)?)?;
                (batch, queries, keys, self.number(heads)?.checked_mul(widths)?)
            }
            ([batch, queries, width], [_, keys, _], [_, _, values]) => {
                let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
                let values = self.number(values)?.checked_div(kv_heads)?.checked_mul(q_heads)?;
                (batch, queries, keys, self.number(width)?.checked_add(values)?)
            }
            _ => return None,
        };
        let past = match operand(4) {
            Some(past) => self.number(self.lengths(past)?.get(2)?)?,
            None => 0,
        };
        let keys = self.number(keys)?.checked_add(past)?;
        self.product([batch, queries])?.checked_mul(keys)?.checked_mul(widths)
    }

    fn lengths(&self, value: ValueId) -> Option<&'m [SymExpr]> {
        self.shapes.lengths(value)
    }

    fn elements(&mut self, value: ValueId) -> Option<u64> {
        let lengths = self.lengths(value)?;
        self.product(lengths)
    }

    fn product<'e>(&mut self, lengths: impl IntoIterator<Item = &'e SymExpr>) -> Option<u64> {
        lengths.into_iter().try_fold(1u64, |product, length| product.checked_mul(self.number(length)?))
    }

    /// The length with open sizes of the inputs taken as 1; none where it depends on anything else.
    fn number(&mut self, length: &SymExpr) -> Option<u64> {
        u64::try_from(self.evaluate(length)?).ok()
    }

    fn evaluate(&mut self, expression: &SymExpr) -> Option<i64> {
        use SymExpr::*;
        if let Var(symbol) = expression {
            if symbol.synthetic && !self.unnamed.contains(&symbol.name) {
                return None;
            }
            let name = if symbol.synthetic { "unnamed sizes".into() } else { symbol.name.clone() };
            self.cost.taken_as_one.insert(name);
            return Some(1);
        }
        let mut both = |a: &SymExpr, b: &SymExpr| Some((self.evaluate(a)?, self.evaluate(b)?));
        match expression {
            Value(n) => Some((*n).into()),
            Var(_) => None,
            Neg(x) => self.evaluate(x)?.checked_neg(),
            Add(a, b) => both(a, b).and_then(|(a, b)| a.checked_add(b)),
            Sub(a, b) => both(a, b).and_then(|(a, b)| a.checked_sub(b)),
            Mul(a, b) => both(a, b).and_then(|(a, b)| a.checked_mul(b)),
            Div(a, b) => both(a, b).and_then(|(a, b)| a.checked_div(b)),
            DivCeil(a, b) => both(a, b).and_then(|(a, b)| a.checked_add(b.checked_sub(1)?)?.checked_div(b)),
            Max(a, b) | Broadcast(a, b) => both(a, b).map(|(a, b)| a.max(b)),
            Min(a, b) => both(a, b).map(|(a, b)| a.min(b)),
        }
    }
}

/// What stands for an axis of an Einsum: a letter, or an axis of the ellipsis, counted from the back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Label {
    Letter(char),
    Ellipsis(usize),
}

fn einsum_labels(term: &str, rank: usize) -> Option<Vec<Label>> {
    let letters = |text: &str| text.chars().map(Label::Letter).collect::<Vec<_>>();
    let labels = match term.split_once("...") {
        Some((before, behind)) => {
            let [before, behind] = [letters(before), letters(behind)];
            let hidden = rank.checked_sub(before.len() + behind.len())?;
            [before, (0..hidden).rev().map(Label::Ellipsis).collect(), behind].concat()
        }
        None => letters(term),
    };
    (labels.len() == rank).then_some(labels)
}

/// Elements and bytes.
fn dense(tensor: &Tensor) -> [u64; 2] {
    [tensor.len() as u64, tensor.byte_len() as u64]
}

/// Elements that are stored, and their bytes with those of their places.
fn sparse(tensor: &SparseTensor) -> [u64; 2] {
    [tensor.values.len() as u64, (tensor.values.byte_len() + tensor.indices.byte_len()) as u64]
}

fn result(node: &Node) -> Option<ValueId> {
    node.outputs.first().copied().flatten()
}

impl Node {
    fn is_constant(&self) -> bool {
        self.op == "Constant" && self.domain.is_empty()
    }

    /// Elements and bytes of the tensor that a Constant node holds.
    fn constant_size(&self) -> Option<[u64; 2]> {
        let (_, held) = self.attrs.first().filter(|_| self.is_constant())?;
        let all = |count: usize, width: usize| Some([count as u64, (count * width) as u64]);
        match held {
            Attr::Tensor(tensor) => Some(dense(tensor)),
            Attr::SparseTensor(tensor) => Some(sparse(tensor)),
            Attr::Float(_) => all(1, 4),
            Attr::Int(_) => all(1, 8),
            Attr::Floats(floats) => all(floats.len(), 4),
            Attr::Ints(ints) => all(ints.len(), 8),
            Attr::Str(text) => all(1, text.len()),
            Attr::Strs(texts) => Some([texts.len() as u64, texts.iter().map(|text| text.len() as u64).sum()]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(text: &str) -> Cost {
        let model = Model::parse(text).expect("the text is a model");
        Cost::of(&model, &Shapes::infer(&model))
    }

    #[test]
    fn layers_count_as_the_field_counts_them() {
        let cost = cost(
            r#"
            <ir_version: 8, opset_import: ["": 18]>
            net (float[1,8,10,10] x, float[8,4,3,3] w, float[3,12,5,5] t, float[12,2,2,2] u,
                 float[6,5] p, float[6,7] q, float[2,9,4] s, float[4,3] v) => (y, z, g, r) {
                c = Conv <group = 2, pads = [1,1,1,1]> (x, w)
                y = Relu (c)
                z = ConvTranspose (t, u)
                g = Gemm <transA = 1> (p, q)
                r = MatMul (s, v)
            }"#,
        );
        let macs: Vec<_> = cost.layers.iter().map(|layer| layer.macs.unwrap()).collect();
        assert_eq!(macs, [8 * 10 * 10 * 4 * 9, 0, 3 * 12 * 5 * 5 * 2 * 4, 5 * 7 * 6, 2 * 9 * 3 * 4]);
        assert_eq!(cost.macs, macs.iter().sum::<u64>());
    }

    #[test]
    fn a_shared_weight_counts_once_and_open_sizes_as_one() {
        let cost = cost(
            r#"
            <ir_version: 8, opset_import: ["": 18]>
            net (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> {
                k = Constant <value_floats = [1.0, 2.0]> ()
                h = MatMul (x, w)
                i = MatMul (h, w)
                y = Add (i, k)
            }"#,
        );
        let parameters: Vec<_> = cost.layers.iter().map(|layer| layer.parameters).collect();
        assert_eq!((parameters, cost.parameters, cost.weight_bytes), (vec![4, 0, 2], 6, 24));
        assert_eq!((cost.macs, cost.taken_as_one), (8, BTreeSet::from(["N".into()])));
    }

    /// The layers of a graph with these inputs and nodes.
    fn macs(inputs: &str, nodes: &str) -> Vec<u64> {
        let text = format!(r#"<ir_version: 10, opset_import: ["": 23]> net ({inputs}) => (y) {{ {nodes} }}"#);
        cost(&text).layers.iter().map(|layer| layer.macs.expect("known")).collect()
    }

    #[test]
    fn a_convolution_counts_its_kernel_for_each_element_whatever_the_stride_and_dilation() {
        let depthwise = "y = Conv <group = 8, dilations = [2, 2], strides = [2, 2]> (x, w)";
        // ⌊(20 - 5) / 2⌋ + 1 = 8 positions along each axis.
        assert_eq!(macs("float[2,8,20,20] x, float[8,1,3,3] w", depthwise), [2 * 8 * 8 * 8 * 9]);
        let one_axis = "y = Conv (x, w)";
        assert_eq!(macs("float[1,3,16] x, float[5,3,4] w", one_axis), [5 * 13 * 3 * 4]);
        let transposed = "y = ConvTranspose <group = 2, strides = [2, 2]> (x, w)";
        assert_eq!(macs("float[1,4,5,5] x, float[4,3,2,2] w", transposed), [4 * 25 * 3 * 4]);
    }

    #[test]
    fn quantized_layers_count_as_those_that_they_stand_for() {
        let scales = "float s, uint8 z, int8 wz";
        let conv = macs(
            &format!("uint8[1,3,8,8] x, int8[4,3,3,3] w, {scales}"),
            "y = QLinearConv <pads = [1, 1, 1, 1]> (x, s, z, w, s, wz, s, z)",
        );
        assert_eq!(conv, [4 * 64 * 27]);
        let product =
            macs(&format!("uint8[7,5] a, int8[5,6] b, {scales}"), "y = QLinearMatMul (a, s, z, b, s, wz, s, z)");
        assert_eq!(product, [7 * 5 * 6]);
        assert_eq!(macs("uint8[7,5] a, int8[5,6] b", "y = MatMulInteger (a, b)"), [7 * 5 * 6]);
        assert_eq!(macs("uint8[1,3,8,8] x, int8[4,3,3,3] w", "y = ConvInteger (x, w)"), [4 * 36 * 27]);
    }

    #[test]
    fn stacks_of_matrices_are_broadcast() {
        assert_eq!(macs("float[2,1,3,4] a, float[5,4,6] b", "y = MatMul (a, b)"), [2 * 5 * 3 * 4 * 6]);
        assert_eq!(macs("float[4] a, float[4] b", "y = MatMul (a, b)"), [4]);
        assert_eq!(macs("float[4] a, float[7,4,2] b", "y = MatMul (a, b)"), [7 * 4 * 2]);
    }

    #[test]
    fn einsum_counts_all_labels_of_each_pair_of_operands() {
        let einsum = |inputs: &str, equation: &str, operands: &str| {
            macs(inputs, &format!(r#"y = Einsum <equation = "{equation}"> ({operands})"#))[0]
        };
        assert_eq!(einsum("float[2,3,4] a, float[2,4,5] b", "bij, bjk -> bik", "a, b"), 2 * 3 * 4 * 5);
        assert_eq!(einsum("float[2,7,3,4] a, float[4,5] b", "...ij,jk", "a, b"), 2 * 7 * 3 * 4 * 5);
        assert_eq!(einsum("float[3,4] a, float[4,5] b, float[5,6] c", "ij,jk,kl->il", "a, b, c"), 60 + 90);
        assert_eq!(einsum("float[3,4] a", "ij->ji", "a"), 0);
    }

    #[test]
    fn recurrent_layers_multiply_input_and_state_in_each_step_and_direction() {
        let inputs = "float[9,2,5] x, float[2,12,5] w, float[2,12,3] r";
        let lstm = macs(inputs, r#"y = LSTM <direction = "bidirectional", hidden_size = 3> (x, w, r)"#);
        assert_eq!(lstm, [9 * 2 * (2 * 12 * 5 + 2 * 12 * 3)]);
        let gru = macs("float[9,2,5] x, float[1,9,5] w, float[1,9,3] r", "y = GRU <hidden_size = 3> (x, w, r)");
        assert_eq!(gru, [9 * 2 * (9 * 5 + 9 * 3)]);
    }

    #[test]
    fn attention_counts_both_products_with_the_keys_of_the_past() {
        let heads = macs("float[2,4,6,8] q, float[2,2,7,8] k, float[2,2,7,5] v", "y = Attention (q, k, v)");
        assert_eq!(heads, [2 * 4 * 6 * 7 * (8 + 5)]);
        let flat = macs(
            "float[2,6,32] q, float[2,7,16] k, float[2,7,10] v, float[2,2,9,8] pk, float[2,2,9,5] pv",
            "y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v, , pk, pv)",
        );
        assert_eq!(flat, [2 * 4 * 6 * (7 + 9) * (8 + 5)]);
    }

    #[test]
    fn packed_weights_count_their_bytes_and_bodies_count_once() {
        let cost = cost(
            r#"
            <ir_version: 10, opset_import: ["": 21]>
            net (bool b, float[2,3] x, float s) => (float[2,3] y, int4[3,3] w)
            <int4[3,3] w = {1, 2, 3, 4, 5}> {
                d = DequantizeLinear (w, s)
                y = If (b) <
                    then_branch = a () => (p) { p = MatMul (x, d) },
                    else_branch = o () => (q) { q = MatMul (x, d) }
                >
            }"#,
        );
        assert_eq!((cost.parameters, cost.weight_bytes, cost.macs), (9, 5, 2 * 18));
        assert_eq!(cost.layers.len(), 4);
    }

    #[test]
    fn what_is_not_known_is_not_counted() {
        let cost = cost(
            r#"
            <ir_version: 8, opset_import: ["": 18, "other": 1]>
            net (float[2,2] x) => (y) {
                a = other.Make (x)
                y = MatMul (x, a)
            }"#,
        );
        assert!(cost.layers.iter().all(|layer| layer.macs.is_none()));
    }
}
