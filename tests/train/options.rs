//! What the options of `distill` do to a training.

use std::path::Path;
use std::sync::Arc;

use onnxshrink::data::Dataset;
use onnxshrink::ir::Model;
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;

use super::{distilled, student, trained};

/// Why `distill` with these options does not take the digits; none if it does.
fn refusal(options: &str) -> Option<String> {
    let original = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let data = Dataset::open(Path::new("testdata/models/mnist_resdw.npz"), &original).unwrap();
    let mut cx = Context { data: Some(data), original: Some(Arc::new(original)), ..Context::default() };
    cx.observers.push(Box::new(Verify));
    match Pipeline::parse(&format!("distill(epochs=1,{options})"), passes::ALL) {
        Ok(pipeline) => pipeline.run(&mut student(), &mut cx).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

fn losses(options: &str) -> Vec<f64> {
    let log = distilled(&student(), options, 2, |_| {}).log;
    log.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect()
}

#[test]
fn epochs_that_are_no_better_end_training() {
    // Steps as small as that change nothing.
    let stuck = distilled(&student(), "epochs=10,patience=2,learning-rate=1e-30,weight-decay=0", 1, |_| {});
    assert_eq!(stuck.log.len(), 3);
    assert_eq!(stuck.notes[0], "ended after epoch 3: the last 2 were no better");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    for (options, why) in [
        ("mixup=2", "`mixup` is from 0 to 1"),
        ("crop=0", "`crop` is a share above 0, up to 1"),
        ("mask-tokens=0.1", "`mask-tokens` and `mask-token` go together"),
        ("mask-tokens=0.1,mask-token=103", "`mask-tokens` hides tokens, and no input chooses rows of a table"),
        ("copies=2", "`copies` wants changes"),
        ("copies=2,mixup=0.2", "`mixup` mixes anew in each epoch"),
        ("splice-tokens=0.5", "`splice-tokens` wants `copies`"),
        ("splice-tokens=0.5,copies=1", "`splice-tokens` splices tokens, and no input chooses rows of a table"),
        ("average=1", "`average` is a share below 1"),
        ("output-weights=[1,2]", "`output-weights` has 2 numbers, but the model has 1 outputs"),
        ("hints=[\"nothing\"]", "the student computes no value `nothing` to give hints by"),
        ("hints=[\"relu=logits\"]", "they differ in more than their width"),
        ("hints=[\"=nothing\"]", "the teacher computes no value `nothing` to give hints by"),
        ("hints=[\"=\"]", "a hint names no value"),
        ("hints=[\"relu=\"]", "no value of the teacher has the shape of `relu`, [1, "),
        ("attention=[\"relu=\"]", "could be like several values of the teacher: `"),
        ("attention=[\"logits\"]", "attention is compared between images of one size"),
    ] {
        let refused = refusal(options).unwrap_or_else(|| panic!("{options} is not refused"));
        assert!(refused.contains(why), "{options}: {refused}");
    }
}

#[test]
fn samples_that_change_are_learned_from() {
    let base = "epochs=20,batch-size=8,learning-rate=0.01,validation=0";
    for options in ["shift=2", "crop=0.8,flip=true", "cutout=8", "average=0.9"] {
        let losses = losses(&format!("{base},{options}"));
        assert!(losses[19] < 0.95 * losses[0] && losses[19] > 0.0, "{options}: {losses:?}");
    }
    // The loss of mixed samples has the entropy of what they want in it.
    let losses = losses(&format!("{base},mixup=0.4"));
    assert!(losses[19] < losses[0] - 0.1, "{losses:?}");
}

#[test]
fn changed_samples_do_not_depend_on_threads() {
    let options = "epochs=2,batch-size=8,shift=2,cutout=6,mixup=0.3,average=0.9";
    let one = distilled(&student(), options, 1, |_| {}).bytes;
    assert!(one == distilled(&student(), options, 2, |_| {}).bytes, "the models differ");
    assert!(one != distilled(&student(), "epochs=2,batch-size=8", 2, |_| {}).bytes, "nothing was changed");
}

#[test]
fn a_teacher_is_asked_of_copies_as_they_are_changed() {
    // A model that is its own teacher finds nothing to learn in what the teacher sees, too.
    let teacher = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let stuck = "epochs=1,batch-size=8,learning-rate=1e-30,weight-decay=0,validation=0,alpha=1,beta=0,shift=4";
    let loss = |options: &str| {
        let log = trained(&teacher, &format!("upgrade-opset,distill({stuck}{options})"), 2, |_| {}).log;
        log[0]["loss"].as_f64().unwrap()
    };
    let (unseen, seen) = (loss(""), loss(",copies=2"));
    assert!(seen.abs() < 1e-4 && unseen > 0.01, "{seen} of copies, {unseen} of what the teacher has not seen");
}

#[test]
fn copies_are_learned_from_but_not_held_back() {
    let options = "epochs=2,batch-size=8,validation=0.25,shift=2";
    let [alone, with] = ["", ",copies=3"].map(|copies| {
        let notes = distilled(&student(), &format!("{options}{copies}"), 2, |_| {}).notes;
        let note = notes.iter().find(|note| note.starts_with("learned from")).unwrap();
        let numbers: Vec<usize> = note.split([' ', ',', ';', ':']).filter_map(|word| word.parse().ok()).collect();
        (numbers[0], *numbers.last().unwrap())
    });
    assert_eq!(with, (4 * alone.0, alone.1));
    let of = |threads| distilled(&student(), &format!("{options},copies=3"), threads, |_| {}).bytes;
    assert!(of(1) == of(2), "the models differ");
}

/// An embedding of any length has the direction that is wanted.
#[test]
fn a_student_learns_directions() {
    let student = student();
    let trained = distilled(&student, "epochs=30,batch-size=8,learning-rate=0.01,validation=0,loss=cosine", 2, |_| {});
    let original = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let data = Dataset::open(Path::new("testdata/models/mnist_resdw.npz"), &original).unwrap();
    let teacher = Runner::new(&original).unwrap();
    let mean = |model: &Model| {
        let runner = Runner::new(model).unwrap();
        let cosine = |index: usize| {
            let sample = data.sample(index);
            let [a, b] =
                [&teacher, &runner].map(|runner| runner.run(&sample).unwrap()[0].floats().unwrap().into_owned());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
        };
        (0..data.len()).map(cosine).sum::<f64>() / data.len() as f64
    };
    let after = onnx::decode(trained.bytes.into(), None).unwrap().model;
    let (before, found) = (mean(&student), mean(&after));
    let told = trained.log.last().unwrap()["loss"].as_f64().unwrap();
    assert!(found > before + 0.2, "{before} became {found}");
    assert!((1.0 - found - told).abs() < 0.1, "the loss is {told}, but 1 - cosine is {}", 1.0 - found);
}

#[test]
fn hints_are_matched_by_the_only_value_of_their_shape() {
    let name = |model: &Model| model.value(model.graph(model.main).outputs[0]).name.clone();
    let teacher = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let (ours, theirs) = (name(&student()), name(&teacher));
    let note = |given: &str, side: &str, found: &str, other: &str| {
        format!("`{given}` of the {side} is matched with `{found}` of the {other} by its shape")
    };
    let mut bytes = Vec::new();
    for (hint, note) in [
        (format!("{ours}={theirs}"), None),
        (format!("{ours}="), Some(note(&ours, "student", &theirs, "teacher"))),
        (format!("={theirs}"), Some(note(&theirs, "teacher", &ours, "student"))),
    ] {
        let hinted = distilled(&student(), &format!("epochs=1,batch-size=8,hints=[\"{hint}\"]"), 2, |_| {});
        assert_eq!(hinted.notes.iter().find(|note| note.contains("by its shape")), note.as_ref(), "{hint}");
        bytes.push(hinted.bytes);
    }
    assert!(bytes.iter().all(|found| *found == bytes[0]), "the same hint, written otherwise, teaches something else");
}

/// The first convolution of the teacher has other channels than the student's, so that a projection is learned with it.
#[test]
fn hints_teach_what_lies_inside_and_leave_nothing_behind() {
    let teacher = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let data = Dataset::open(Path::new("testdata/models/mnist_resdw.npz"), &teacher).unwrap();
    // A value of the teacher for the images that the student halves to 14 x 14.
    let candidates: Vec<_> = teacher.nodes_of(teacher.main).filter_map(|node| teacher.node(node).outputs[0]).collect();
    let shapes = Runner::with_outputs(&teacher, &candidates).unwrap().run(&data.sample(0)).unwrap();
    let like = shapes.iter().position(|value| value.rank() == 4 && value.shape()[2..] == [14, 14]).expect("it has one");
    let name = teacher.value(candidates[like]).name.clone();
    let plain = distilled(&student(), "epochs=3,batch-size=8", 2, |_| {});
    for option in ["hints", "attention"] {
        let hinted = distilled(&student(), &format!("epochs=3,batch-size=8,{option}=[\"relu={name}\"]"), 2, |_| {});
        let [before, after] = [&plain, &hinted].map(|of| onnx::decode(of.bytes.clone().into(), None).unwrap().model);
        assert!(plain.bytes != hinted.bytes, "{option} changed nothing");
        let count = |model: &Model| (model.nodes_of(model.main).count(), model.initializers_of(model.main).count());
        assert_eq!(count(&before), count(&after), "{option}");
    }
}

#[test]
fn weights_that_are_zero_stay_so_where_that_is_asked_for() {
    let mut half = student();
    let pipeline = Pipeline::parse("sparsify(sparsity=0.5)", passes::ALL).unwrap();
    pipeline.run(&mut half, &mut Context::default()).unwrap();
    let matrices = |model: &Model| -> Vec<Vec<f32>> {
        let constants = model.initializers_of(model.main).filter_map(|value| model.constant(value));
        constants.filter(|tensor| tensor.rank() > 1).map(|tensor| tensor.floats().unwrap().into_owned()).collect()
    };
    let zeros = |weights: &[f32]| weights.iter().filter(|w| **w == 0.0).count();
    let before = matrices(&half);
    assert!(before.iter().all(|weights| zeros(weights) == weights.len() / 2));
    for (options, keeps) in [("epochs=2,keep-zeros=true", true), ("epochs=2", false)] {
        let bytes = distilled(&half, options, 2, |_| {}).bytes;
        let after = matrices(&onnx::decode(bytes.into(), None).unwrap().model);
        assert!(before.iter().zip(&after).all(|(before, after)| before != after), "nothing was learned");
        assert_eq!(before.iter().zip(&after).all(|(before, after)| zeros(before) == zeros(after)), keeps, "{options}");
    }
}
