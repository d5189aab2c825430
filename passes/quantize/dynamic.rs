//! Products in int8, with scales of activations that are found while the model runs.
//!
//! ```text
//! x·w = (xq - xz)·wq · (xs·ws), where xq, xs, xz = DynamicQuantizeLinear(x) and w = wq·ws channel by channel
//! ```
//!
//! Where the target's products of u8 and i8 saturate (x86 without VNNI adds two of them in int16), weights have 7 bits:
//! two products of a level up to 63 always fit.
//!
//! The two scales are multiplied first: so ONNX Runtime finds the pattern and fuses it, with a bias behind it, into one
//! node. A value that several products read is quantized once. Convolutions stay float: ONNX Runtime fuses nothing around
//! ConvInteger, which takes 2.6 to 4.8 times as long as the float convolution (three shapes, ONNX Runtime 1.32, AVX2).

use std::collections::HashMap;

use rayon::prelude::*;

use crate::analysis::Shapes;
use crate::ir::op::{Add, Cast, Gemm, MatMul, Mul};
use crate::ir::{DType, Model, NodeId, Operation, Tensor, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::Limits;
use super::channel::PerChannel;
use super::scale::{LEVELS, least_squares_scale, level};
use super::scope::{ancestor, execution_order};

/// Lets every product of an activation and a constant matrix compute in int8. Also returns the weight that lost most, and
/// its ratio of signal to noise in decibels.
pub fn quantize(
    model: &mut Model,
    shapes: &Shapes,
    limits: &Limits,
    saturates: bool,
) -> (Outcome, Option<(String, f64)>) {
    let mut outcome = Outcome::default();
    let highest = if saturates { SAFE_LEVELS } else { LEVELS };
    let mut edit = Edit { highest, activations: HashMap::new(), weights: HashMap::new(), worst: None };
    for node in execution_order(model) {
        if matches!(model.node(node).op.as_str(), "MatMul" | "Gemm") {
            match Product::read(model, shapes, node, limits)
                .and_then(|product| edit.apply(model, node, product, limits))
            {
                Ok(()) => *outcome.applied.entry("dynamic_product").or_default() += 1,
                Err(miss) => drop(outcome.missed.insert(("dynamic_product", node), miss)),
            }
        }
    }
    (outcome, edit.worst)
}

/// x·w + bias.
struct Product {
    x: ValueId,
    w: ValueId,
    transposed: bool,
    bias: Option<ValueId>,
}

impl Product {
    fn read(model: &Model, shapes: &Shapes, node: NodeId, limits: &Limits) -> Match<Product> {
        let product = match (model.view::<MatMul>(node), model.view::<Gemm>(node)) {
            (Some(MatMul { a, b }), _) => Product { x: a, w: b, transposed: false, bias: None },
            (_, Some(Gemm { a, b, c, alpha, beta, transA, transB })) => {
                let plain = alpha == 1.0 && (beta == 1.0 || c.is_none()) && !transA;
                require!(plain, "the Gemm scales or transposes its operands");
                Product { x: a, w: b, transposed: transB, bias: c }
            }
            _ => return Err(Miss("unusual form")),
        };
        let weight = model.constant(product.w).ok_or(Miss("the second operand is not a constant"))?;
        require!(weight.rank() == 2, "the weight is not a matrix");
        require!(weight.len() >= limits.min_elements, "the weight is small");
        require!(!limits.kept.is_match(&model.node(node).name), "asked to stay as it is");
        require!(model.constant(product.x).is_none(), "the first operand is a constant");
        let dtype = shapes.dtype(product.x).ok_or(Miss("the type of the activation is not known"))?;
        require!(dtype == DType::F32 && weight.dtype() == DType::F32, "not float32");
        Ok(product)
    }
}

/// What is in the graph already.
struct Edit {
    /// The largest level of weights.
    highest: f32,
    /// The levels, scale and zero point of quantized activations.
    activations: HashMap<ValueId, [ValueId; 3]>,
    /// The levels and scales of quantized weights.
    weights: HashMap<(ValueId, bool), Match<[ValueId; 2]>>,
    worst: Option<(String, f64)>,
}

impl Edit {
    fn apply(&mut self, model: &mut Model, node: NodeId, product: Product, limits: &Limits) -> Match<()> {
        let Product { x, w, transposed, bias } = product;
        let [wq, ws] = match self.weights.get(&(w, transposed)) {
            Some(known) => (*known)?,
            None => {
                let made = self.weight(model, w, transposed, limits);
                self.weights.insert((w, transposed), made);
                made?
            }
        };
        let [xq, xs, xz] = self.activation(model, x, node);
        let result = model.node(node).outputs[0].ok_or(Miss("nothing is read"))?;
        let label = model.value(result).name.clone();
        let operation = Operation {
            op: "MatMulInteger".into(),
            inputs: vec![Some(xq), Some(wq), Some(xz)],
            ..Operation::default()
        };
        let sums = model.insert_before(node, operation, &format!("{label}.int32"));
        let to = i64::from(DType::F32.code());
        let to_float = Cast { x: sums, round_mode: "up".into(), saturate: 1, to };
        let floats = model.insert_before(node, to_float, &format!("{label}.float"));
        let scale = model.insert_before(node, Mul { a: xs, b: ws }, &format!("{label}.scale"));
        let scaled = Mul { a: floats, b: scale };
        match bias {
            None => drop(model.replace_operation(node, scaled)),
            Some(bias) => {
                let product = model.insert_before(node, scaled, &format!("{label}.product"));
                model.replace_operation(node, Add { a: product, b: bias });
            }
        }
        Ok(())
    }

    fn activation(&mut self, model: &mut Model, x: ValueId, reader: NodeId) -> [ValueId; 3] {
        *self.activations.entry(x).or_insert_with(|| {
            let anchor = ancestor(model, reader, model.value(x).graph);
            let label = model.value(x).name.clone();
            let inputs = vec![Some(x)];
            let operation = Operation { op: "DynamicQuantizeLinear".into(), inputs, ..Operation::default() };
            let made = model.insert_many_before(anchor, operation, &format!("{label}.uint8"), 3);
            let [levels, scale, zero_point] = made[..] else { unreachable!("three were asked for") };
            model.rename(scale, &format!("{label}.scale"));
            model.rename(zero_point, &format!("{label}.zero_point"));
            [levels, scale, zero_point]
        })
    }

    fn weight(&mut self, model: &mut Model, w: ValueId, transposed: bool, limits: &Limits) -> Match<[ValueId; 2]> {
        let tensor = model.constant(w).ok_or(Miss("not a constant"))?;
        let floats = tensor.floats().ok_or(Miss("not a float tensor"))?;
        require!(floats.iter().all(|x| x.is_finite()), "the weight holds NaN or infinity");
        let weights = PerChannel::new(floats, tensor.shape(), usize::from(!transposed));
        let channels = (0..weights.channels()).into_par_iter();
        let columns: Vec<Column> =
            channels.map(|channel| Column::of(&weights.channel(channel), self.highest)).collect();
        let [signal, noise] = columns.iter().fold([0.0; 2], |a, column| [a[0] + column.sums[0], a[1] + column.sums[1]]);
        let sqnr = if noise > 0.0 { 10.0 * (signal / noise).log10() } else { f64::INFINITY };
        require!(sqnr >= limits.min_sqnr, "int8 would lose too much of it: see the option min-sqnr");
        let rows = columns[0].levels.len();
        let levels = (0..rows).flat_map(|row| columns.iter().map(move |column| column.levels[row])).collect();
        let levels = Tensor::from_vec(vec![rows, columns.len()], levels);
        let scales: Vec<f32> = columns.iter().map(|column| column.scale).collect();
        let (graph, name) = (model.value(w).graph, model.value(w).name.clone());
        if self.worst.as_ref().is_none_or(|(_, lowest)| sqnr < *lowest) {
            self.worst = Some((name.clone(), sqnr));
        }
        let wq = model.add_constant(graph, &format!("{name}.int8"), levels);
        let scales = Tensor::from_vec(vec![scales.len()], scales);
        Ok([wq, model.add_constant(graph, &format!("{name}.scale"), scales)])
    }
}

/// Two products of u8 and a level up to this one fit int16.
const SAFE_LEVELS: f32 = 63.0;

/// What a channel of results is summed up from.
struct Column {
    levels: Vec<i8>,
    scale: f32,
    /// Σx² and Σ(x - scale·q)².
    sums: [f64; 2],
}

impl Column {
    fn of(x: &[f32], highest: f32) -> Column {
        let scale = least_squares_scale(x, highest).unwrap_or(1.0);
        let mut sums = [0f64; 2];
        let to_level = |&x: &f32| {
            let q = level(x, scale.recip(), highest);
            let error = x - q * scale;
            sums = [sums[0] + f64::from(x * x), sums[1] + f64::from(error * error)];
            q as i8
        };
        Column { levels: x.iter().map(to_level).collect(), scale, sums }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_products_of_levels_that_are_safe_fit_int16() {
        let x: Vec<f32> = (-200..200).map(|x| x as f32).collect();
        let column = Column::of(&x, SAFE_LEVELS);
        let highest = column.levels.iter().map(|&level| i32::from(level).abs()).max().unwrap();
        assert!(highest == 63 && 2 * 255 * highest <= i32::from(i16::MAX));
        assert!(column.sums[1] * 1000.0 < column.sums[0]);
    }
}
