//! What a model costs: parameters, multiply-accumulates and bytes of weights, layer by layer.
//!
//! Multiply-accumulates are those of convolutions, matrix products, attention and recurrent layers, as the field counts
//! them; elementwise operators and reductions count as none. Bodies count once: a loop for one round, an `If` for each
//! of its branches. A weight that several layers share counts where it is read first.

use std::collections::{BTreeSet, HashSet};

use rten_shape_inference::SymExpr;

use super::Shapes;
use crate::ir::{Attr, GraphId, Initializer, Model, Node, NodeId, Tensor, ValueDef, ValueId};

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
        let size = |tensor: &Tensor| [tensor.len() as u64, tensor.byte_len() as u64];
        let size = match &self.model.value(value).def {
            ValueDef::Constant(tensor) | ValueDef::Input { default: Some(Initializer::Dense(tensor)) } => size(tensor),
            ValueDef::Sparse(sparse) | ValueDef::Input { default: Some(Initializer::Sparse(sparse)) } => {
                let [values, indices] = [&sparse.values, &sparse.indices].map(size);
                [values[0], values[1] + indices[1]]
            }
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
            "Conv" | "ConvInteger" => self.over_kernel(result(node)?, operand(1)?),
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

    /// The product over all labels of two operands.
    fn einsum(&mut self, node: &Node) -> Option<u64> {
        let Some(Attr::Str(equation)) = node.attrs.get("equation") else { return None };
        let equation: String = std::str::from_utf8(equation).ok()?.split_whitespace().collect();
        let terms: Vec<&str> = equation.split("->").next()?.split(',').collect();
        if equation.contains('.') || terms.len() != node.inputs.len() {
            return None;
        }
        if terms.len() < 2 {
            return Some(0);
        }
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        for (term, operand) in terms.iter().zip(&node.inputs) {
            let lengths = self.lengths((*operand)?)?;
            let labels: Vec<char> = term.chars().collect();
            if labels.len() != lengths.len() {
                return None;
            }
            all.extend(labels.into_iter().zip(lengths).filter(|(label, _)| seen.insert(*label)).map(|(_, x)| x));
        }
        (terms.len() == 2).then(|| self.product(all)).flatten()
    }

    /// Q·Kᵀ and the product of the weights with V, for each query and key.
    fn attention(&mut self, node: &Node) -> Option<u64> {
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let past = operand(4).is_some() || operand(5).is_some();
        let [q, k, v] = [self.lengths(operand(0)?)?, self.lengths(operand(1)?)?, self.lengths(operand(2)?)?];
        let heads = |name: &str| match node.attrs.get(name) {
            Some(Attr::Int(heads)) => u64::try_from(*heads).ok(),
            _ => None,
        };
        match (q, k, v) {
            _ if past => None,
            ([_, _, _, _], [_, _, keys, _], [_, _, _, width]) => {
                let queries = self.product(q.get(..3)?)?;
                let (keys, widths) = (self.number(keys)?, self.number(&q[3])?.checked_add(self.number(width)?)?);
                queries.checked_mul(keys)?.checked_mul(widths)
            }
            ([batch, queries, width], [_, keys, _], [_, _, values]) => {
                let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
                let values = self.number(values)?.checked_div(kv_heads)?.checked_mul(q_heads)?;
                let widths = self.number(width)?.checked_add(values)?;
                let pairs = self.product([batch, queries, keys])?;
                pairs.checked_mul(widths)
            }
            _ => None,
        }
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
            Attr::Tensor(tensor) => Some([tensor.len() as u64, tensor.byte_len() as u64]),
            Attr::SparseTensor(sparse) => all(sparse.values.len(), sparse.values.dtype().bits().div_ceil(8)),
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
