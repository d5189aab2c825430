//! Appends nodes to a graph whose shapes are all fixed, and knows the type and shape of every value.

use std::collections::HashMap;

use super::operators::Einsum;
use crate::analysis::Shapes;
use crate::analysis::shapes::fixed_length;
use crate::ir::op::{
    Add, Clip, Concat, Div, Expand, Gather, MatMul, Mul, Neg, Pad, Reciprocal, ReduceMean, ReduceSum, Reshape, Sign,
    Slice, Split, Sqrt, Sub, Transpose,
};
use crate::ir::{DType, GraphId, Model, NodeId, Op, Operation, Size, Tensor, Type, ValueId};

/// Where nodes are written, and what is known of values.
pub(crate) struct Tape<'m> {
    pub model: &'m mut Model,
    graph: GraphId,
    shapes: Shapes,
    /// Values that the tape wrote.
    written: HashMap<ValueId, (DType, Vec<usize>)>,
    scalars: HashMap<(u64, DType), ValueId>,
    /// New nodes stand before this one; at the end where there is none.
    anchor: Option<NodeId>,
    /// The names of new values begin with it.
    pub prefix: String,
    /// Whether operators of ours may be written, which this runtime alone has.
    pub has_ours: bool,
}

impl<'m> Tape<'m> {
    /// Writes at the end of the main graph.
    pub fn new(model: &'m mut Model) -> Tape<'m> {
        let shapes = Shapes::infer(model);
        Tape {
            graph: model.main,
            shapes,
            model,
            written: HashMap::new(),
            scalars: HashMap::new(),
            anchor: None,
            prefix: String::new(),
            has_ours: false,
        }
    }

    /// What `write` writes stands before `node`.
    pub fn before<T>(&mut self, node: NodeId, write: impl FnOnce(&mut Tape) -> T) -> T {
        let outer = self.anchor.replace(node);
        let result = write(self);
        self.anchor = outer;
        result
    }

    /// Type and shape; none where the shape is not fixed.
    pub fn known(&self, value: ValueId) -> Option<(DType, Vec<usize>)> {
        if let Some(known) = self.written.get(&value) {
            return Some(known.clone());
        }
        if let Some(tensor) = self.model.constant(value) {
            return Some((tensor.dtype(), tensor.shape().to_vec()));
        }
        Some((self.shapes.dtype(value)?, self.shapes.fixed(value)?))
    }

    /// Tells the tape what it cannot infer: the type and shape of an input that was added.
    pub fn know(&mut self, value: ValueId, dtype: DType, shape: Vec<usize>) {
        self.written.insert(value, (dtype, shape));
    }

    /// # Panics
    /// If the shape is not fixed: that is checked before gradients are taken.
    pub fn shape(&self, value: ValueId) -> Vec<usize> {
        self.known(value).expect("values on the way to the loss have fixed shapes").1
    }

    pub fn dtype(&self, value: ValueId) -> DType {
        self.known(value).expect("values on the way to the loss have known types").0
    }

    /// The elements of an integer value, where they follow from the model.
    pub fn elements(&self, value: ValueId) -> Option<Vec<i64>> {
        if let Some(tensor) = self.model.constant(value) {
            return tensor.ints();
        }
        let number = |element: &_| fixed_length(element).map(|n| n as i64);
        self.shapes.elements(value)?.iter().map(number).collect()
    }

    /// The one element of a float constant.
    pub fn float(&self, value: ValueId) -> Option<f32> {
        self.model.constant(value)?.as_float()
    }

    /// Writes a node with one result of this type and shape.
    pub fn write(&mut self, operation: impl Into<Operation>, dtype: DType, shape: Vec<usize>) -> ValueId {
        let operation = operation.into();
        let name = format!("{}/{}", self.prefix, operation.op);
        let value = match self.anchor {
            Some(anchor) => self.model.insert_before(anchor, operation, &name),
            None => self.model.append(self.graph, &name, operation),
        };
        self.written.insert(value, (dtype, shape));
        value
    }

    /// Writes a node with several results of these shapes.
    pub fn write_many(&mut self, operation: impl Into<Operation>, dtype: DType, shapes: &[Vec<usize>]) -> Vec<ValueId> {
        let operation = operation.into();
        let name = format!("{}/{}", self.prefix, operation.op);
        let results = match self.anchor {
            Some(anchor) => self.model.insert_many_before(anchor, operation, &name, shapes.len()),
            None => {
                let names = vec![Some(name.as_str()); shapes.len()];
                let node = self.model.append_node(self.graph, &name, operation, &names);
                self.model.node(node).outputs.iter().flatten().copied().collect()
            }
        };
        for (&result, shape) in results.iter().zip(shapes) {
            self.written.insert(result, (dtype, shape.clone()));
        }
        results
    }

    /// Tells the model the type and shape of all that was written: nobody can infer those of operators of ours.
    pub fn declare(&mut self) {
        for (&value, (dtype, shape)) in &self.written {
            if self.model.is_value_live(value) && self.model.producer(value).is_some() {
                let ty = Type::tensor(*dtype, shape.iter().map(|&n| Size::Fixed(n as i64)));
                self.model.set_type(value, Some(ty));
            }
        }
    }

    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("{}/constant", self.prefix);
        self.model.add_constant(self.graph, &name, tensor)
    }

    pub fn ints(&mut self, ints: &[i64]) -> ValueId {
        self.constant(Tensor::from_ints(ints))
    }

    /// A number of the type of `like`.
    pub fn scalar(&mut self, x: f64, like: ValueId) -> ValueId {
        let dtype = self.dtype(like);
        if let Some(&known) = self.scalars.get(&(x.to_bits(), dtype)) {
            return known;
        }
        let array = ndarray::ArrayD::from_elem(ndarray::IxDyn(&[]), x);
        let tensor = Tensor::from_reals(&array, dtype).expect("gradients are floats");
        let value = self.constant(tensor);
        self.scalars.insert((x.to_bits(), dtype), value);
        value
    }

    /// A tensor of one number, of the type of `like`.
    pub fn filled(&mut self, x: f64, shape: &[usize], like: ValueId) -> ValueId {
        let array = ndarray::ArrayD::from_elem(ndarray::IxDyn(shape), x);
        let tensor = Tensor::from_reals(&array, self.dtype(like)).expect("gradients are floats");
        self.constant(tensor)
    }

    /// An elementwise operator with broadcasting. The result has the type of the last operand.
    pub fn map(&mut self, operation: impl Into<Operation>) -> ValueId {
        let operation = operation.into();
        let operands: Vec<ValueId> = operation.inputs.iter().flatten().copied().collect();
        let shape = operands.iter().fold(vec![], |shape, &operand| broadcast(&shape, &self.shape(operand)));
        let dtype = self.dtype(*operands.last().expect("elementwise operators have operands"));
        self.write(operation, dtype, shape)
    }

    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.map(Add { a, b })
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.map(Sub { a, b })
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.map(Mul { a, b })
    }

    pub fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.map(Div { a, b })
    }

    pub fn neg(&mut self, x: ValueId) -> ValueId {
        self.map(Neg { x })
    }

    pub fn sign(&mut self, x: ValueId) -> ValueId {
        self.map(Sign { x })
    }

    /// x·c
    pub fn scale(&mut self, x: ValueId, c: f64) -> ValueId {
        if c == 1.0 {
            return x;
        }
        let c = self.scalar(c, x);
        self.mul(x, c)
    }

    /// x + c
    pub fn shift(&mut self, x: ValueId, c: f64) -> ValueId {
        let c = self.scalar(c, x);
        self.add(x, c)
    }

    /// 1 / √x
    pub fn reciprocal_sqrt(&mut self, x: ValueId) -> ValueId {
        let root = self.map(Sqrt { x });
        self.map(Reciprocal { x: root })
    }

    pub fn clip(&mut self, x: ValueId, min: ValueId, max: ValueId) -> ValueId {
        let (dtype, shape) = self.known(x).expect("values on the way to the loss have fixed shapes");
        self.write(Clip { x, min: Some(min), max: Some(max) }, dtype, shape)
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        let (dtype, old) = (self.dtype(x), self.shape(x));
        debug_assert_eq!(old.iter().product::<usize>(), shape.iter().product::<usize>(), "{old:?} as {shape:?}");
        if old == shape {
            return x;
        }
        let ints = self.ints(&shape.iter().map(|&n| n as i64).collect::<Vec<_>>());
        self.write(Reshape { x, shape: ints, allowzero: 0 }, dtype, shape.to_vec())
    }

    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return x;
        }
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        let perm_attr = perm.iter().map(|&p| p as i64).collect();
        self.write(Transpose { x, perm: perm_attr }, dtype, perm.iter().map(|&p| shape[p]).collect())
    }

    pub fn expand(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        if self.shape(x) == shape {
            return x;
        }
        let dtype = self.dtype(x);
        let ints = self.ints(&shape.iter().map(|&n| n as i64).collect::<Vec<_>>());
        self.write(Expand { x, shape: ints }, dtype, shape.to_vec())
    }

    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> ValueId {
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        if axes.is_empty() {
            return x;
        }
        let reduced = reduced(&shape, axes, keep);
        if axes.iter().all(|&axis| shape[axis] == 1) {
            return self.reshape(x, &reduced);
        }
        let axes = self.ints(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
        self.write(
            ReduceSum { x, axes: Some(axes), keepdims: i64::from(keep), noop_with_empty_axes: 0 },
            dtype,
            reduced,
        )
    }

    pub fn mean(&mut self, x: ValueId, axes: &[usize], keep: bool) -> ValueId {
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        let reduced = reduced(&shape, axes, keep);
        let axes = self.ints(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
        let mean = ReduceMean { x, axes: Some(axes), keepdims: i64::from(keep), noop_with_empty_axes: 0 };
        self.write(mean, dtype, reduced)
    }

    /// Sums of `x` over the axes along which a value of this shape was broadcast.
    pub fn reduce_to(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        let from = self.shape(x);
        if from == shape {
            return x;
        }
        let extra = from.len().saturating_sub(shape.len());
        let repeated = |axis: &usize| *axis < extra || (shape[axis - extra] == 1 && from[*axis] != 1);
        let axes: Vec<usize> = (0..from.len()).filter(repeated).collect();
        let sum = self.sum(x, &axes, false);
        self.reshape(sum, shape)
    }

    /// `count[i]` elements of each axis from `start[i]` on, each `step[i]`th.
    pub fn slice(&mut self, x: ValueId, start: &[usize], count: &[usize], step: &[usize]) -> ValueId {
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        let cut: Vec<usize> = (0..shape.len()).filter(|&i| count[i] != shape[i] || step[i] != 1).collect();
        if cut.is_empty() {
            return x;
        }
        let of = |values: &dyn Fn(usize) -> usize| cut.iter().map(|&i| values(i) as i64).collect::<Vec<_>>();
        let starts = self.ints(&of(&|i| start[i]));
        let ends = self.ints(&of(&|i| start[i] + count[i].saturating_sub(1) * step[i] + usize::from(count[i] > 0)));
        let axes = self.ints(&of(&|i| i));
        let steps = self.ints(&of(&|i| step[i]));
        self.write(Slice { x, starts, ends, axes: Some(axes), steps: Some(steps) }, dtype, count.to_vec())
    }

    /// `count` elements of one axis from `start` on.
    pub fn slice_axis(&mut self, x: ValueId, axis: usize, start: usize, count: usize) -> ValueId {
        let mut counts = self.shape(x);
        let mut starts = vec![0; counts.len()];
        (starts[axis], counts[axis]) = (start, count);
        let steps = vec![1; counts.len()];
        self.slice(x, &starts, &counts, &steps)
    }

    /// Zeros around `x`.
    pub fn pad(&mut self, x: ValueId, before: &[usize], after: &[usize]) -> ValueId {
        self.pad_with(x, before, after, None)
    }

    pub fn pad_with(&mut self, x: ValueId, before: &[usize], after: &[usize], value: Option<ValueId>) -> ValueId {
        if before.iter().chain(after).all(|&n| n == 0) {
            return x;
        }
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        let pads = self.ints(&before.iter().chain(after).map(|&n| n as i64).collect::<Vec<_>>());
        let padded = (0..shape.len()).map(|i| before[i] + shape[i] + after[i]).collect();
        self.write(Pad { x, pads, value, axes: None, mode: "constant".into() }, dtype, padded)
    }

    /// `x` with `step - 1` zeros between neighbours along each axis.
    pub fn spread(&mut self, x: ValueId, steps: &[usize]) -> ValueId {
        let shape = self.shape(x);
        if (0..shape.len()).all(|i| steps[i] == 1 || shape[i] <= 1) {
            return x;
        }
        // [n] as [n, 1], padded to [n, step], is the row [n·step], of which the last step - 1 go.
        let (mut columns, mut after, mut row) = (Vec::new(), Vec::new(), Vec::new());
        for (&n, &step) in shape.iter().zip(steps) {
            columns.push(n);
            after.push(0);
            if step > 1 {
                columns.push(1);
                after.push(step - 1);
            }
            row.push(n * step);
        }
        let columns = self.reshape(x, &columns);
        let padded = self.pad(columns, &vec![0; after.len()], &after);
        let row = self.reshape(padded, &row);
        let count: Vec<usize> = shape.iter().zip(steps).map(|(&n, &step)| (n.max(1) - 1) * step + n.min(1)).collect();
        self.slice(row, &vec![0; shape.len()], &count, &vec![1; shape.len()])
    }

    /// What puts the parts that [`slice`](Tape::slice) takes back into zeros of this shape.
    pub fn unslice(&mut self, x: ValueId, start: &[usize], step: &[usize], shape: &[usize]) -> ValueId {
        let spread = self.spread(x, step);
        let have = self.shape(spread);
        let after: Vec<usize> = (0..shape.len()).map(|i| shape[i] - start[i] - have[i]).collect();
        self.pad(spread, start, &after)
    }

    pub fn concat(&mut self, xs: Vec<ValueId>, axis: usize) -> ValueId {
        if let [x] = xs[..] {
            return x;
        }
        let dtype = self.dtype(xs[0]);
        let mut shape = self.shape(xs[0]);
        shape[axis] = xs.iter().map(|&x| self.shape(x)[axis]).sum();
        self.write(Concat { xs, axis: axis as i64 }, dtype, shape)
    }

    /// The parts of `x` of these lengths along `axis`.
    pub fn split(&mut self, x: ValueId, axis: usize, lengths: &[usize]) -> Vec<ValueId> {
        if lengths.len() == 1 {
            return vec![x];
        }
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        let split = self.ints(&lengths.iter().map(|&n| n as i64).collect::<Vec<_>>());
        let part =
            |&length: &usize| shape.iter().enumerate().map(|(i, &n)| if i == axis { length } else { n }).collect();
        let shapes: Vec<Vec<usize>> = lengths.iter().map(part).collect();
        self.write_many(Split { x, split: Some(split), axis: axis as i64, num_outputs: None }, dtype, &shapes)
    }

    /// `x` backwards along `axis`.
    pub fn reverse(&mut self, x: ValueId, axis: usize) -> ValueId {
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        if shape[axis] < 2 {
            return x;
        }
        let indices = self.ints(&(0..shape[axis] as i64).rev().collect::<Vec<_>>());
        self.write(Gather { data: x, indices, axis: axis as i64 }, dtype, shape)
    }

    /// Σ over the letters that `equation` has left of the arrow only.
    pub fn einsum(&mut self, equation: &str, xs: &[ValueId]) -> ValueId {
        let (left, right) = equation.split_once("->").expect("equations have an arrow");
        let mut lengths = HashMap::new();
        for (letters, &x) in left.split(',').zip(xs) {
            lengths.extend(letters.chars().zip(self.shape(x)));
        }
        let shape = right.chars().map(|letter| lengths[&letter]).collect();
        let dtype = self.dtype(xs[0]);
        self.write(Einsum { xs: xs.to_vec(), equation: equation.into() }, dtype, shape)
    }

    /// A matrix product, batched with broadcasting.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let (dtype, from_a, from_b) = (self.dtype(a), self.shape(a), self.shape(b));
        let (batch_a, batch_b) = (&from_a[..from_a.len() - 2], &from_b[..from_b.len() - 2]);
        let mut shape = broadcast(batch_a, batch_b);
        shape.extend([from_a[from_a.len() - 2], from_b[from_b.len() - 1]]);
        self.write(MatMul { a, b }, dtype, shape)
    }

    /// Matrices transposed.
    pub fn swap_last(&mut self, x: ValueId) -> ValueId {
        let rank = self.shape(x).len();
        let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        self.transpose(x, &perm)
    }

    /// Lets the result `value` of a node be computed by `operation`, of the same type and shape.
    pub fn redefine<O: Op>(&mut self, value: ValueId, operation: O) {
        let known = self.known(value).expect("values on the way to the loss have fixed shapes");
        self.model.redefine(value, operation);
        self.written.insert(value, known);
    }
}

/// The shape that operands of shapes `a` and `b` have in common.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let extra = long.len() - short.len();
    long.iter().enumerate().map(|(i, &n)| if i >= extra && n == 1 { short[i - extra] } else { n }).collect()
}

/// `shape` without `axes`, or with a one in their place.
pub(super) fn reduced(shape: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let axis = |(i, &n): (usize, &usize)| match axes.contains(&i) {
        true => keep.then_some(1),
        false => Some(n),
    };
    shape.iter().enumerate().filter_map(axis).collect()
}
