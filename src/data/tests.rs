//! Archives are written by another library, and bound to small graphs.

use std::path::PathBuf;

use npyz::npz::NpzWriter;
use npyz::{AutoSerialize, WriterBuilder};

use super::*;
use crate::analysis::FixedSizes;
use crate::ir::op::{Add, Cast, Gather, Identity};
use crate::ir::{DType, Model, Size, Tensor, Type};

/// A model with inputs of these types and no nodes.
fn model(inputs: &[(&str, DType, &[Size])]) -> Model {
    let mut model = Model::new("test");
    for (name, dtype, dims) in inputs {
        let input = model.add_input(model.main, name);
        model.set_type(input, Some(Type::tensor(*dtype, dims.iter().cloned())));
    }
    model
}

fn n(length: i64) -> Size {
    Size::Fixed(length)
}

fn symbol(name: &str) -> Size {
    Size::Symbol(name.into())
}

/// An .npz file in a folder of its own.
struct File {
    folder: tempfile::TempDir,
    npz: NpzWriter<std::io::BufWriter<std::fs::File>>,
}

impl File {
    fn new() -> File {
        let folder = tempfile::tempdir().unwrap();
        let npz = NpzWriter::create(folder.path().join("data.npz")).unwrap();
        File { folder, npz }
    }

    fn with<T: AutoSerialize + Clone>(mut self, name: &str, shape: &[u64], elements: &[T]) -> File {
        let mut writer =
            self.npz.array(name, Default::default()).unwrap().default_dtype().shape(shape).begin_nd().unwrap();
        writer.extend(elements.iter().cloned()).unwrap();
        writer.finish().unwrap();
        self
    }

    fn with_text(mut self, name: &str, lines: &[&str]) -> File {
        let dtype = npyz::DType::Plain("<U8".parse().unwrap());
        let writer = self.npz.array(name, Default::default()).unwrap().dtype(dtype);
        let mut writer = writer.shape(&[lines.len() as u64]).begin_nd().unwrap();
        lines.iter().for_each(|line| writer.push(*line).unwrap());
        writer.finish().unwrap();
        self
    }

    fn open(self, model: &Model) -> Result<Dataset, String> {
        drop(self.npz);
        let path: PathBuf = self.folder.path().join("data.npz");
        Dataset::open(&path, model).map_err(|error| error.problem.to_string())
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.floats().unwrap().into_owned()
}

#[test]
fn arrays_are_bound_by_name_in_the_order_of_the_inputs() {
    let model = model(&[("b", DType::F32, &[symbol("n"), n(2)]), ("a", DType::I64, &[symbol("n")])]);
    let file = File::new().with("a", &[2], &[5i64, 6]).with("b", &[2, 2], &[0f32, 1., 2., 3.]);
    let data = file.open(&model).unwrap();
    let sample = data.sample(1);
    assert_eq!((data.len(), sample[0].shape(), floats(&sample[0])), (2, &[1, 2][..], vec![2., 3.]));
    assert_eq!((sample[1].shape(), sample[1].ints().unwrap()), (&[1][..], vec![6]));
}

#[test]
fn elements_become_what_the_input_takes() {
    let model = model(&[("i", DType::I32, &[n(1)]), ("h", DType::F16, &[n(1)]), ("b", DType::Bool, &[n(1)])]);
    let file = File::new().with("i", &[1], &[7i64]).with("h", &[1], &[0.5f64]).with("b", &[1], &[1u8]);
    let sample = file.open(&model).unwrap().sample(0);
    assert_eq!(sample.iter().map(Tensor::dtype).collect::<Vec<_>>(), [DType::I32, DType::F16, DType::Bool]);
    assert_eq!((sample[0].as_int(), sample[1].as_float(), sample[2].as_int()), (Some(7), Some(0.5), Some(1)));
}

#[test]
fn a_model_with_one_input_takes_x_or_the_only_array() {
    let model = model(&[("input", DType::F32, &[symbol("batch")])]);
    for name in ["input", "x", "whatever"] {
        let data = File::new().with(name, &[3], &[1f32, 2., 3.]).with("y", &[3], &[1i64, 0, 1]).open(&model).unwrap();
        assert_eq!(data.len(), 3);
        assert_eq!(data.labels().classes.as_ref().unwrap().row(2), [1]);
    }
}

#[test]
fn a_fixed_batch_takes_that_many_rows_at_a_time() {
    let model = model(&[("x", DType::F32, &[n(2), n(1)])]);
    let data = File::new().with("x", &[5, 1], &[0f32, 1., 2., 3., 4.]).open(&model).unwrap();
    assert_eq!((data.len(), data.batch(), data.label_rows(1)), (2, 2, 2..4));
    assert_eq!(floats(&data.sample(1)[0]), [2., 3.]);
    assert_eq!(data.warnings(), ["the last 1 of 5 samples do not fill a batch of 2 and are left out"]);
}

#[test]
fn an_input_without_an_axis_for_samples_gets_one_row_as_it_is() {
    let model = model(&[("sound", DType::F32, &[n(1), n(3)]), ("rate", DType::I64, &[])]);
    let file = File::new().with("sound", &[2, 1, 3], &[0f32; 6]).with("rate", &[2], &[8i64, 16]);
    let sample = file.open(&model).unwrap().sample(1);
    assert_eq!((sample[0].shape(), sample[1].shape(), sample[1].as_int()), (&[1, 3][..], &[][..], Some(16)));
}

#[test]
fn inputs_with_a_default_need_no_array() {
    let mut model = model(&[("x", DType::F32, &[n(1)]), ("w", DType::F32, &[n(1)])]);
    let w = model.graph(model.main).inputs[1];
    model.set_default(w, crate::ir::Initializer::Dense(Tensor::from_vec(vec![1], vec![1f32])));
    let data = File::new().with("x", &[1], &[2f32]).open(&model).unwrap();
    assert_eq!(data.sample(0).len(), 1);
}

#[test]
fn labels_of_every_kind_are_read() {
    let model = model(&[("x", DType::F32, &[symbol("n")])]);
    let file = File::new().with("x", &[2], &[0f32, 1.]).with("y", &[2, 2], &[1i64, 2, 3, 4]);
    let file = file.with("y_any", &[2, 3], &[5i64, -1, -1, 6, 7, -1]).with_text("text", &["añb", ""]);
    let labels = file.open(&model).unwrap().labels().clone();
    assert_eq!(labels.classes.unwrap().row(1), [3, 4]);
    assert_eq!(labels.accepted.unwrap().row(1), [6, 7, -1]);
    assert_eq!(labels.text.unwrap().cells, ["añb", ""]);
}

#[test]
fn what_does_not_fit_is_explained() {
    let one = model(&[("x", DType::F32, &[symbol("n"), n(2)])]);
    let two =
        model(&[("ids", DType::I32, &[symbol("n"), symbol("s")]), ("mask", DType::I64, &[symbol("n"), symbol("s")])]);
    let unfit = |file: File, model: &Model| file.open(model).err().unwrap_or_else(|| "it fits".into());
    let messages = [
        unfit(File::new().with("ids", &[1, 1], &[1i64]), &two),
        unfit(File::new().with("a", &[1, 2], &[1f32; 2]).with("b", &[1], &[1f32]), &one),
        unfit(File::new().with_text("x", &["a", "b"]), &one),
        unfit(File::new().with("ids", &[1, 1], &[1f32]).with("mask", &[1, 1], &[1i64]), &two),
        unfit(File::new().with("ids", &[1, 1], &[1i64 << 40]).with("mask", &[1, 1], &[1i64]), &two),
        unfit(File::new().with("x", &[1, 3], &[1f32; 3]), &one),
        unfit(File::new().with("x", &[2], &[1f32; 2]), &one),
        unfit(File::new().with("x", &[0, 2], &[0f32; 0]), &one),
        unfit(File::new().with("ids", &[1, 2], &[1i64; 2]).with("mask", &[1, 3], &[1i64; 3]), &two),
        unfit(File::new().with("ids", &[1, 2], &[1i64; 2]).with("mask", &[2, 2], &[1i64; 4]), &two),
        unfit(File::new().with("x", &[2, 2], &[1f32; 4]).with("y", &[3], &[1i64; 3]), &one),
        unfit(File::new().with("x", &[1, 2], &[1f32; 2]).with("y", &[1], &[0.5f32]), &one),
        unfit(File::new().with("x", &[1, 2], &[1f32; 2]), &model(&[("x", DType::F32, &[n(4), n(2)])])),
    ]
    .join("\n");
    insta::assert_snapshot!(messages);
}

#[test]
fn numbers_that_are_none_are_warned_about() {
    let model = model(&[("x", DType::F32, &[symbol("n")])]);
    let data = File::new().with("x", &[3], &[f32::NAN, 1., f32::INFINITY]).open(&model).unwrap();
    assert_eq!(data.warnings(), ["array `x` holds 2 values that are NaN or infinite"]);
}

#[test]
fn a_split_shares_no_sample_and_depends_on_the_seed_alone() {
    let model = model(&[("x", DType::I64, &[symbol("n")])]);
    let data = File::new().with("x", &[10], &(0i64..10).collect::<Vec<_>>()).open(&model).unwrap();
    let ids = |data: &Dataset| (0..data.len()).map(|i| data.sample(i)[0].as_int().unwrap()).collect::<Vec<_>>();
    let (kept, held_back) = data.split(7, 0.25);
    assert_eq!((ids(&kept), ids(&held_back)), (vec![0, 1, 2, 4, 6, 7, 8], vec![3, 5, 9]));
    assert_ne!(ids(&data.split(8, 0.25).1), ids(&held_back));
    assert_eq!(ids(&held_back.first(2)), ids(&held_back)[..2]);
}

/// `ids` reaches a table of 5 rows through a cast, `mask` is added.
fn embedding() -> Model {
    let shape = [symbol("batch"), symbol("seq")];
    let mut model = model(&[("ids", DType::I32, &shape), ("attention_mask", DType::I64, &shape)]);
    let main = model.main;
    let [ids, mask] = model.graph(main).inputs[..] else { unreachable!() };
    let table = model.add_constant(main, "table", Tensor::from_vec(vec![5, 1], vec![0i64; 5]));
    let indices = model.append(main, "wide", Cast { x: ids, round_mode: "up".into(), saturate: 1, to: 7 });
    let indices = model.append(main, "same", Identity { x: indices });
    let rows = model.append(main, "rows", Gather { data: table, indices, axis: 0 });
    let sum = model.append(main, "sum", Add { a: rows, b: mask });
    model.add_output(main, sum);
    model
}

#[test]
fn random_indices_stay_within_their_table_and_masks_are_one() {
    let data = synthesize(&embedding(), &FixedSizes::default(), 1, 50, |_| Ok(())).unwrap();
    let (mut seen, mut mask) = (Vec::new(), Vec::new());
    for i in 0..data.len() {
        let [ids, ones] = &data.sample(i)[..] else { unreachable!() };
        assert_eq!((ids.dtype(), ids.shape(), ones.shape()), (DType::I32, &[1, 32][..], &[1, 32][..]));
        seen.extend(ids.ints().unwrap());
        mask.extend(ones.ints().unwrap());
    }
    assert!((0..5).all(|id| seen.contains(&id)) && seen.iter().all(|id| (0..5).contains(id)));
    assert!(mask.iter().all(|&x| x == 1));
}

#[test]
fn random_floats_are_standard_normal_and_follow_the_seed() {
    let model = model(&[("x", DType::F32, &[symbol("n"), n(10_000)])]);
    let draw = |seed| floats(&synthesize(&model, &FixedSizes::default(), seed, 1, |_| Ok(())).unwrap().sample(0)[0]);
    let x = draw(3);
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let variance = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    assert_eq!(x, draw(3));
    assert_ne!(x, draw(4));
}

#[test]
fn open_axes_get_the_first_lengths_that_run() {
    let image = model(&[("x", DType::F32, &[symbol("n"), n(3), symbol("h"), Size::Unknown])]);
    let guess = |given: &[&str]| {
        let given = &FixedSizes::parse(&image, given).unwrap();
        let runs = |sample: &[Tensor]| (sample[0].shape()[2] == 48).then_some(()).ok_or("the height is not 48".into());
        synthesize(&image, given, 0, 2, runs).map(|data| data.sample(1)[0].shape().to_vec()).map_err(|e| e.to_string())
    };
    assert_eq!(guess(&[]), Ok(vec![1, 3, 48, 192]));
    assert_eq!(guess(&["x=2,3,48,7"]), Ok(vec![2, 3, 48, 7]));
    assert_eq!(guess(&["n=5"]), Ok(vec![5, 3, 48, 192]));
    insta::assert_snapshot!(guess(&["x=1,3,9,9"]).unwrap_err());
}
