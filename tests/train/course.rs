//! The loop of epochs, on the smallest model there is: y = w·x, with x = 1 and y = 0 wanted, so that the loss is w².

use onnxshrink::ir::op::MatMul;
use onnxshrink::ir::{DType, Model, Size, Tensor, Type, ValueId};
use onnxshrink::train::{
    Course, Fit, Goal, Joint, Lessons, Loss, Optimizer, Plan, Schedule, Settings, Target, TrainError, Weight, train,
};

const START: f32 = 0.5;

struct Trained {
    weight: f32,
    course: Course,
}

fn model() -> (Model, ValueId, ValueId) {
    let mut model = Model::new("line");
    model.opsets.0.insert(String::new(), 18);
    let x = model.add_input(model.main, "x");
    model.set_type(x, Some(Type::tensor(DType::F32, [Size::Symbol("n".into()), Size::Fixed(1)])));
    let w = model.add_constant(model.main, "w", Tensor::from_vec(vec![1, 1], vec![START]));
    let y = model.append(model.main, "y", MatMul { a: x, b: w });
    model.add_output(model.main, y);
    (model, w, y)
}

/// Plain gradient descent on so many samples, one a step.
fn settings(rate: f64) -> Settings {
    Settings {
        epochs: 1,
        before: 0,
        behind: 0,
        batch: 1,
        optimizer: Optimizer::Sgd { momentum: 0.0, nesterov: false },
        rate,
        decay: 0.0,
        schedule: Schedule::Constant,
        warmup: 0.0,
        clip: None,
        average: None,
        patience: 0,
        seed: 0,
    }
}

fn trained(settings: &Settings, samples: usize) -> Result<Trained, TrainError> {
    let (mut model, w, y) = model();
    let lessons = Lessons {
        inputs: vec![vec![Tensor::from_vec(vec![1, 1], vec![1f32])]; samples],
        targets: vec![Target { teacher: Some(vec![0.0; samples].into()), ..Target::default() }],
        floor: vec![],
        rows: 1,
    };
    let (weights, goals) =
        ([Weight { value: w, decays: false }], [Goal { value: y, loss: Loss::MeanSquare, weight: 1.0 }]);
    let plan = Plan {
        model: &model,
        weights: &weights,
        goals: &goals,
        batch_statistics: false,
        sample: &lessons.inputs[0],
        samples: 1,
    };
    let joint = Joint::new(&plan).unwrap();
    let mut fit = Fit::new(joint, &plan, &lessons).unwrap();
    let learned: Vec<usize> = (0..samples).collect();
    let course = train(&mut fit, settings, &learned, &[], None, &mut ())?;
    fit.write(&mut model).unwrap();
    Ok(Trained { weight: model.constant(w).unwrap().as_float().unwrap(), course })
}

/// Each step makes w ← w·(1 - 2η). With η = 1.95 it grows by 2.9 times, so that w² leaves float32 near step 42; with half
/// of it, it falls to .95 of itself.
#[test]
fn a_loss_that_leaves_the_numbers_starts_again_from_the_epoch_in_smaller_steps() {
    let Trained { weight, course } = trained(&settings(1.95), 64).unwrap();
    let note = "the loss left the numbers in epoch 1: went back to the weights before it, with half the learning rate";
    assert_eq!(course.notes, [note]);
    let left = (f64::from(weight).abs() / f64::from(START)).ln() / 0.95f64.ln();
    assert!((10.0..30.0).contains(&left) && (left - left.round()).abs() < 1e-2, "{left} steps after it went back");
    assert!(course.epochs[0].loss.is_finite());
}

#[test]
fn a_loss_that_leaves_the_numbers_again_and_again_ends_training_with_what_to_do() {
    let error = trained(&settings(1e12), 64).err().expect("it diverges");
    let text = "the loss left the numbers 3 times, at last in epoch 1; try a lower learning rate than 2.5e11";
    assert_eq!(error.to_string(), text);
}

/// The average is the equation a ← a + (1 - k)·(w - a), k = min(kept, (1 + t) / (10 + t)).
#[test]
fn averaged_weights_follow_their_equation() {
    let found = trained(&Settings { average: Some(0.8), epochs: 3, ..settings(0.05) }, 20).unwrap().weight;
    let (mut w, mut average) = (f64::from(START), f64::from(START));
    for step in 1..=60 {
        w *= 1.0 - 2.0 * 0.05;
        let step = f64::from(step);
        average += (1.0 - 0.8f64.min((1.0 + step) / (10.0 + step))) * (w - average);
    }
    assert!((f64::from(found) - average).abs() < 1e-5 && average > 1.5 * w, "{found} for {average}");
}
