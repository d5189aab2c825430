//! Rows of embedding tables: those whose ids occur in samples stay, and all others share one or go to the nearest.
//!
//! A map from ids to the rows that are left goes into the graph before each lookup, so that what makes the ids, a tokenizer,
//! stays as it is. Where the ids are not those of an input, positions say, nothing is known of what will occur: such tables
//! keep their rows.
//!
//! Law: an id whose row is kept is looked up as before; any other gets the shared row, or the kept one that is nearest to its own.

use bytes::BytesMut;
use ndarray::{Array1, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::data::required_inputs;
use crate::ir::op::{Cast, Clip, Gather};
use crate::ir::{DType, Model, NodeId, Tensor, Use, ValueDef, ValueId};
use crate::pass::{Context, PassError};
use crate::rewrite::{Match, Miss};
use crate::train::weights::separate;

/// What the nodes of a map and their names take in a file, roughly.
const OVERHEAD_BYTES: usize = 300;

/// Which rows stay.
pub struct Vocabulary {
    /// How often an id occurs at least.
    pub least: u64,
    pub others: StandIn,
}

/// What stands for ids that have no row of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StandIn {
    /// One row that is the mean of theirs.
    Mean,
    /// The row of this id, which stays.
    Row(usize),
    /// For each the row that is left of greatest cosine.
    Nearest,
}

/// Rows that are compared with all others in one product.
const COMPARED: usize = 256;

/// A table, and the lookups in it.
struct Table {
    value: ValueId,
    lookups: Vec<Lookup>,
}

/// A lookup of the ids of an input.
struct Lookup {
    node: NodeId,
    indices: ValueId,
    /// The place of the input in a sample.
    input: usize,
    /// The bounds that ids are clipped to on the way, the first last.
    bounds: Vec<[i64; 2]>,
}

impl Vocabulary {
    /// Lets the tables of `model` keep the rows of ids that occur in `samples`, which are in the order of its inputs.
    /// `is_held` tells of a lookup whether its table stays as it is.
    pub fn apply(
        &self,
        model: &mut Model,
        samples: &[Vec<Tensor>],
        is_held: impl Fn(&Model, NodeId) -> bool,
        cx: &mut Context,
    ) -> Result<(), PassError> {
        separate(model);
        let mut shared = 0;
        for table in tables(model, cx) {
            let first = table.lookups[0].node;
            if table.lookups.iter().any(|lookup| is_held(model, lookup.node)) {
                continue;
            }
            if let Err(miss) = readable(model, &table) {
                cx.missed("table", first, miss);
                cx.note(format!("`{}` keeps its rows: {}", model.value(table.value).name, miss.0));
                continue;
            }
            let stays = self.stays(model, &table, samples)?;
            match self.share(model, &table, &stays) {
                Ok(note) => cx.note(note),
                Err(miss) => {
                    cx.missed("table", first, miss);
                    continue;
                }
            }
            shared += 1;
        }
        match shared {
            0 => cx.note("no table that ids of an input are looked up in has rows that can go"),
            _ => cx.applied("table", shared),
        }
        Ok(())
    }

    /// For each row of a table, whether it stays.
    fn stays(&self, model: &Model, table: &Table, samples: &[Vec<Tensor>]) -> Result<Vec<bool>, PassError> {
        let (name, rows) = (&model.value(table.value).name, model.constant(table.value).map_or(0, |t| t.shape()[0]));
        let mut counts = vec![0u64; rows];
        for lookup in &table.lookups {
            for sample in samples {
                let ids = sample[lookup.input].ints().expect("ids are integers");
                for id in ids {
                    let id = lookup.bounds.iter().rev().fold(id, |id, &[low, high]| id.max(low).min(high));
                    let place = if id < 0 { id + rows as i64 } else { id };
                    let count = usize::try_from(place).ok().and_then(|place| counts.get_mut(place));
                    *count.ok_or_else(|| PassError(format!("there is an id {id}, but `{name}` has {rows} rows")))? += 1;
                }
            }
        }
        let mut stays: Vec<bool> = counts.into_iter().map(|count| count >= self.least).collect();
        if let StandIn::Row(unknown) = self.others {
            let row = stays.get_mut(unknown);
            *row.ok_or_else(|| PassError(format!("`unknown` is {unknown}, but `{name}` has {rows} rows")))? = true;
        }
        if !stays.contains(&true) {
            return Err(PassError(format!("no id of `{name}` occurs {} times in the samples", self.least)));
        }
        Ok(stays)
    }

    /// Lets a table keep some rows, and its lookups find them. What there is to tell of it.
    fn share(&self, model: &mut Model, table: &Table, stays: &[bool]) -> Match<String> {
        let tensor = model.constant(table.value).expect("tables are constants").clone();
        let (rows, each) = (stays.len(), tensor.byte_len() / stays.len());
        let kept: Vec<usize> = (0..rows).filter(|&row| stays[row]).collect();
        let left = kept.len() + usize::from(self.others == StandIn::Mean);
        let dtype = match left {
            ..=0x100 => DType::U8,
            0x101..=0x1_0000 => DType::U16,
            _ => DType::I32,
        };
        let map_bytes = rows * dtype.bits() / 8;
        if rows.saturating_sub(left) * each <= map_bytes + OVERHEAD_BYTES {
            return Err(Miss("a map of its ids takes more than the rows that would go"));
        }
        let place = |row: usize| kept.binary_search(&row);
        let others = match self.others {
            StandIn::Mean => vec![kept.len(); rows - kept.len()],
            StandIn::Row(unknown) => vec![place(unknown).expect("it is kept"); rows - kept.len()],
            StandIn::Nearest => {
                let gone: Vec<usize> = (0..rows).filter(|&row| !stays[row]).collect();
                nearest(&tensor, &gone, &kept)
            }
        };
        let mut others = others.into_iter();
        let of = |row: usize| place(row).unwrap_or_else(|_| others.next().expect("each row that goes has another"));
        let places: Vec<usize> = (0..rows).map(of).collect();
        let map = match dtype {
            DType::U8 => Tensor::from_vec(vec![rows], places.iter().map(|&place| place as u8).collect()),
            DType::U16 => Tensor::from_vec(vec![rows], places.iter().map(|&place| place as u16).collect()),
            _ => Tensor::from_vec(vec![rows], places.iter().map(|&place| place as i32).collect()),
        };

        let old = tensor.bytes().expect("floats are bytes");
        let mut bytes = BytesMut::with_capacity(left * each);
        kept.iter().for_each(|&row| bytes.extend_from_slice(&old[row * each..][..each]));
        if self.others == StandIn::Mean {
            bytes.extend_from_slice(mean_of_others(&tensor, stays).bytes().expect("floats are bytes"));
        }
        let mut shape = tensor.shape().to_vec();
        shape[0] = left;
        let new = Tensor::new(tensor.dtype(), shape, bytes.freeze()).expect("rows were counted");

        let name = model.value(table.value).name.clone();
        let note = format!(
            "`{name}`: {} of {rows} rows stay, {} {}; {} -> {} bytes, with the map of ids",
            kept.len(),
            rows - kept.len(),
            if self.others == StandIn::Nearest { "go to the nearest of them" } else { "share one" },
            tensor.byte_len(),
            new.byte_len() + map_bytes,
        );
        model.set_constant(table.value, new);
        let map = model.add_constant(model.main, &format!("{name}.rows"), map);
        let mut mapped: Vec<(ValueId, ValueId)> = Vec::new();
        for &Lookup { node, indices, .. } in &table.lookups {
            let known = mapped.iter().find(|(ids, _)| *ids == indices).map(|&(_, places)| places);
            let places = known.unwrap_or_else(|| {
                let lookup = Gather { data: map, indices, axis: 0 };
                let places = model.insert_before(node, lookup, &format!("{name}.row"));
                match dtype {
                    DType::I32 => places,
                    _ => {
                        let to = DType::I32.code().into();
                        let cast = Cast { x: places, round_mode: "up".into(), saturate: 1, to };
                        model.insert_before(node, cast, &format!("{name}.index"))
                    }
                }
            });
            if known.is_none() {
                mapped.push((indices, places));
            }
            model.set_input(node, 1, Some(places));
        }
        Ok(note)
    }
}

/// The tables that ids of inputs are looked up in, in the order of their first lookups.
fn tables(model: &Model, cx: &mut Context) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for node in model.nodes_of(model.main) {
        let Some(Gather { data, indices, axis: 0 }) = model.view(node) else { continue };
        if model.constant(data).is_none_or(|table| table.rank() < 2) {
            continue;
        }
        let Some((input, bounds)) = ids_of(model, indices) else {
            cx.missed("table", node, Miss("its ids are not those of an input"));
            continue;
        };
        let lookup = Lookup { node, indices, input, bounds };
        match tables.iter_mut().find(|table| table.value == data) {
            Some(table) => table.lookups.push(lookup),
            None => tables.push(Table { value: data, lookups: vec![lookup] }),
        }
    }
    tables
}

/// The input whose numbers `value` has, by its place in a sample, and the bounds that they are clipped to on the way.
fn ids_of(model: &Model, value: ValueId) -> Option<(usize, Vec<[i64; 2]>)> {
    let (mut value, mut bounds) = (value, Vec::new());
    loop {
        let node = match model.value(value).def {
            ValueDef::Node(node) => node,
            ValueDef::Input { default: None } => {
                let input = required_inputs(model).position(|(input, _)| input == value)?;
                let dtype = model.value(value).ty.as_ref()?.as_tensor()?.dtype?;
                return matches!(dtype, DType::I32 | DType::I64).then_some((input, bounds));
            }
            _ => return None,
        };
        let of = model.node(node);
        if !of.domain.is_empty() {
            return None;
        }
        match of.op.as_str() {
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Slice" | "Expand" => {}
            "Cast" => {
                let Cast { to, .. } = model.view(node)?;
                let dtype = i32::try_from(to).ok().and_then(DType::from_code);
                dtype.filter(|dtype| matches!(dtype, DType::I32 | DType::I64))?;
            }
            "Clip" => {
                let Clip { min, max, .. } = model.view(node)?;
                let bound = |bound: Option<ValueId>, none: i64| match bound {
                    Some(bound) => model.constant(bound)?.as_int(),
                    None => Some(none),
                };
                bounds.push([bound(min, i64::MIN)?, bound(max, i64::MAX)?]);
            }
            _ => return None,
        }
        value = of.inputs[0]?;
    }
}

/// Whether rows of a table can go: nothing but lookups may read it.
fn readable(model: &Model, table: &Table) -> Match<()> {
    let is_lookup =
        |place: &Use| matches!(*place, Use::Node(node, 0) if table.lookups.iter().any(|of| of.node == node));
    if !model.value(table.value).uses.iter().all(is_lookup) {
        return Err(Miss("something reads it that does not look up ids of an input"));
    }
    match model.constant(table.value).is_some_and(|tensor| tensor.floats().is_some()) {
        true => Ok(()),
        false => Err(Miss("its rows are no floats; prune before `quantize`")),
    }
}

/// For each row that goes, the place among those kept of the one of greatest cosine with it; of equals the first.
fn nearest(table: &Tensor, gone: &[usize], kept: &[usize]) -> Vec<usize> {
    let floats = table.floats().expect("it holds floats");
    let rows = table.shape()[0];
    let rows = ArrayView2::from_shape((rows, table.len() / rows), &floats).expect("rows were counted");
    let mut directions = rows.select(Axis(0), kept);
    // The length of the row that goes is the same in all its cosines.
    for mut row in directions.rows_mut() {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|x| (f64::from(x) / norm) as f32);
        }
    }
    let greatest = |products: ArrayView1<f32>| {
        let order = |a: &usize, b: &usize| products[*a].total_cmp(&products[*b]).then(b.cmp(a));
        (0..kept.len()).max_by(order).expect("a row is kept")
    };
    let find = |gone: &[usize]| -> Vec<usize> {
        rows.select(Axis(0), gone).dot(&directions.t()).rows().into_iter().map(greatest).collect()
    };
    gone.par_chunks(COMPARED).flat_map_iter(find).collect()
}

/// The mean of the rows that do not stay.
fn mean_of_others(table: &Tensor, stays: &[bool]) -> Tensor {
    let floats = table.floats().expect("it holds floats");
    let mut sum = Array1::<f64>::zeros(table.len() / stays.len());
    for (row, _) in floats.chunks(sum.len().max(1)).zip(stays).filter(|(_, stays)| !**stays) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let others = stays.iter().filter(|&&stays| !stays).count();
    Tensor::from_reals(&(sum / others as f64).into_dyn(), table.dtype()).expect("it holds floats")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;
    use crate::runtime::Runner;

    const ROWS: usize = 60;

    /// A table of random rows, that what `path` makes of ids is looked up in.
    fn network(seed: u64, path: &str) -> Model {
        let mut random = Random::new(seed, 0);
        let numbers: Vec<String> = (0..ROWS * 4).map(|_| format!("{:.4}", random.normal())).collect();
        let text = format!(
            "<ir_version: 10, opset_import: [\"\": 21]>
            net (int64[N,S] ids) => (float[N,S,4] y)
            <float[{ROWS},4] table = {{{}}}, int64 low = {{0}}, int64 high = {{{}}}, int64[2] flat = {{1, -1}}>
            {{ {path} }}",
            numbers.join(","),
            ROWS - 1
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn ids(ids: &[i64]) -> Vec<Tensor> {
        vec![Tensor::from_vec(vec![1, ids.len()], ids.to_vec())]
    }

    fn pruned(model: &Model, vocabulary: &Vocabulary, samples: &[Vec<Tensor>]) -> Result<(Model, Context), PassError> {
        let (mut small, mut cx) = (model.clone(), Context::default());
        vocabulary.apply(&mut small, samples, |_, _| false, &mut cx)?;
        small.verify().unwrap_or_else(|error| panic!("{error}"));
        Ok((small, cx))
    }

    fn run(model: &Model, sample: &[Tensor]) -> Vec<f32> {
        Runner::new(model).unwrap().run(sample).unwrap()[0].floats().unwrap().into_owned()
    }

    #[test]
    fn ids_that_occur_keep_their_rows_and_all_others_share_one() {
        let model = network(1, "y = Gather (table, ids)");
        let table = run(&model, &ids(&(0..ROWS as i64).collect::<Vec<_>>()));
        for seed in 0..20 {
            let mut random = Random::new(seed, 1);
            // Indices may count from the end.
            let some = |random: &mut Random| random.below(2 * ROWS as u64 / 3) as i64 - 7;
            let samples: Vec<Vec<Tensor>> =
                (0..3).map(|_| ids(&(0..8).map(|_| some(&mut random)).collect::<Vec<_>>())).collect();
            let unknown = (seed % 3 == 0).then_some(ROWS - 2);
            let vocabulary = Vocabulary { least: 1 + seed % 2, others: unknown.map_or(StandIn::Mean, StandIn::Row) };
            let (small, _) = pruned(&model, &vocabulary, &samples).unwrap();

            let mut counts = [0; ROWS];
            let place = |id: i64| (if id < 0 { id + ROWS as i64 } else { id }) as usize;
            samples.iter().flat_map(|sample| sample[0].ints().unwrap()).for_each(|id| counts[place(id)] += 1);
            let stays = |row: usize| counts[row] >= vocabulary.least || Some(row) == unknown;
            let others: Vec<usize> = (0..ROWS).filter(|&row| !stays(row)).collect();
            let found = run(&small, &ids(&(0..ROWS as i64).collect::<Vec<_>>()));
            for row in 0..ROWS {
                for column in 0..4 {
                    let of = |row: usize| table[row * 4 + column];
                    let mean = others.iter().map(|&row| f64::from(of(row))).sum::<f64>() / others.len() as f64;
                    let wanted = match (stays(row), unknown) {
                        (true, _) => of(row),
                        (false, Some(unknown)) => of(unknown),
                        (false, None) => mean as f32,
                    };
                    assert_eq!(found[row * 4 + column], wanted, "row {row} of seed {seed}");
                }
            }
            assert_eq!(run(&small, &ids(&[-1])), found[4 * ROWS - 4..]);
        }
    }

    #[test]
    fn ids_without_a_row_are_looked_up_as_the_most_like_of_those_that_have_one() {
        let model = network(5, "y = Gather (table, ids)");
        let all: Vec<i64> = (0..ROWS as i64).collect();
        let table = run(&model, &ids(&all));
        let kept = [3i64, 11, 12, 40, 59];
        let vocabulary = Vocabulary { least: 1, others: StandIn::Nearest };
        let (small, cx) = pruned(&model, &vocabulary, &[ids(&kept)]).unwrap();
        let row = |row: i64| &table[row as usize * 4..][..4];
        let dot = |a: i64, b: i64| row(a).iter().zip(row(b)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = |a: i64, b: i64| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        for (id, found) in all.iter().zip(run(&small, &ids(&all)).chunks(4)) {
            let nearest = kept.into_iter().max_by(|&a, &b| cosine(*id, a).total_cmp(&cosine(*id, b))).unwrap();
            assert_eq!(found, row(nearest), "id {id}");
        }
        assert!(cx.notes[0].starts_with("`table`: 5 of 60 rows stay, 55 go to the nearest of them"), "{:?}", cx.notes);
    }

    #[test]
    fn the_nearest_of_many_rows_is_found() {
        let mut random = Random::new(7, 0);
        let table = Tensor::from_vec(vec![900, 5], (0..4500).map(|_| random.normal()).collect());
        let floats = table.floats().unwrap();
        let row = |row: usize| &floats[row * 5..][..5];
        let dot = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = |a: usize, b: usize| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let (kept, gone): (Vec<usize>, Vec<usize>) = (0..900).partition(|row| row % 3 == 0);
        for (&of, found) in gone.iter().zip(nearest(&table, &gone, &kept)) {
            let wanted = (0..kept.len()).max_by(|&a, &b| cosine(of, kept[a]).total_cmp(&cosine(of, kept[b])));
            assert_eq!(Some(found), wanted, "row {of}");
        }
    }

    #[test]
    fn ids_are_counted_as_they_are_looked_up() {
        let path = "n = Cast <to = 6> (ids)
            w = Cast <to = 7> (n)
            c = Clip (w, low, high)
            r = Reshape (c, flat)
            y = Gather (table, r)";
        let (model, samples) = (network(2, path), [ids(&[-5, 7, 1000])]);
        let (small, cx) = pruned(&model, &Vocabulary { least: 1, others: StandIn::Mean }, &samples).unwrap();
        assert_eq!(run(&small, &samples[0]), run(&model, &samples[0]));
        assert!(cx.notes[0].starts_with("`table`: 3 of 60 rows stay, 57 share one"), "{:?}", cx.notes);
    }

    #[test]
    fn tables_that_something_else_reads_or_makes_ids_for_keep_their_rows() {
        let tied = "x = Gather (table, ids)
            t = Transpose <perm = [1, 0]> (table)
            s = MatMul (x, t)
            y = MatMul (s, table)";
        let positions = "n = Shape <start = 1> (ids)
            l = Squeeze (n)
            one = Constant <value_int = 1> ()
            r = Range (low, l, one)
            first = Constant <value_ints = [0]> ()
            f = Unsqueeze (r, first)
            y = Gather (table, f)";
        for path in [tied, positions] {
            let model = network(3, path);
            let (small, cx) = pruned(&model, &Vocabulary { least: 1, others: StandIn::Mean }, &[ids(&[1, 2])]).unwrap();
            assert_eq!(run(&small, &ids(&[5, 6, 7])), run(&model, &ids(&[5, 6, 7])));
            assert!(cx.notes.iter().any(|note| note.starts_with("no table")), "{:?}", cx.notes);
            assert!(cx.outcomes.iter().any(|outcome| !outcome.missed.is_empty()));
        }
    }

    #[test]
    fn ids_that_the_table_has_not_are_told_of() {
        let model = network(4, "y = Gather (table, ids)");
        let refused = |least: u64, unknown: Option<usize>, sample: &[i64]| {
            let others = unknown.map_or(StandIn::Mean, StandIn::Row);
            pruned(&model, &Vocabulary { least, others }, &[ids(sample)]).err().map(|error| error.0)
        };
        assert_eq!(refused(1, None, &[60]).as_deref(), Some("there is an id 60, but `table` has 60 rows"));
        assert_eq!(refused(1, Some(60), &[1]).as_deref(), Some("`unknown` is 60, but `table` has 60 rows"));
        assert_eq!(refused(2, None, &[1, 2]).as_deref(), Some("no id of `table` occurs 2 times in the samples"));
        assert_eq!(refused(2, Some(3), &[1, 2]), None);
    }
}
