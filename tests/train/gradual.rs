//! Weights that become zero while a model is trained.

use onnxshrink::ir::Model;
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::passes;

use super::{Distilled, Interrupt, assert_refused, distilled, refusal, student, trained};

/// The elements of matrices and kernels, in their order: 54, 648 and 120.
fn matrices(bytes: &[u8]) -> Vec<Vec<f32>> {
    let model = onnx::decode(bytes.to_vec().into(), None).unwrap().model;
    let constants = model.initializers_of(model.main).filter_map(|value| model.constant(value));
    constants.filter(|tensor| tensor.rank() > 1).map(|tensor| tensor.floats().unwrap().into_owned()).collect()
}

fn zeros(weights: &[f32]) -> usize {
    weights.iter().filter(|w| **w == 0.0).count()
}

fn gradual(sparsify: &str, distill: &str, threads: usize) -> Distilled {
    trained(&student(), &format!("sparsify({sparsify},schedule=gradual),distill({distill})"), threads, |_| {})
}

const TRAINING: &str = "epochs=4,batch-size=4,validation=0.2,learning-rate=0.003";

#[test]
fn as_many_weights_are_zero_in_the_end_as_were_asked_for() {
    for more in ["", ",average=0.9", ",optimizer=nesterov", ",clip=null,weight-decay=0.1,schedule=one-cycle"] {
        let of = gradual("sparsity=0.75", &format!("{TRAINING}{more}"), 2);
        let found: Vec<usize> = matrices(&of.bytes).iter().map(|weights| zeros(weights)).collect();
        assert_eq!(found, [41, 486, 90], "{more}");
        assert!(of.notes.contains(&"617 of 822 weights of 3 layers are zero: 75.1 %".to_string()), "{:?}", of.notes);
        let shares: Vec<f64> = of.log.iter().map(|epoch| epoch["sparsity"].as_f64().unwrap()).collect();
        assert!(shares[0] > 0.3 && shares.windows(2).all(|pair| pair[0] <= pair[1]) && shares[3] == 0.75, "{shares:?}");
    }
    let of = gradual("sparsity=0.75,scope=global", TRAINING, 2);
    assert_eq!(matrices(&of.bytes).iter().map(|weights| zeros(weights)).sum::<usize>(), 617);
}

#[test]
fn patterns_are_reached_bit_by_bit() {
    let of = gradual("pattern=2:4,keep=[conv]", TRAINING, 2);
    let [first, second, head] = &matrices(&of.bytes)[..] else { panic!("there are three") };
    assert_eq!([zeros(first), zeros(second), zeros(head)], [0, 0, 60]);
    assert!(head.chunks(4).all(|group| zeros(group) == 2));
}

/// The best epoch that is kept has all zeros, though those before were better.
#[test]
fn epochs_with_fewer_zeros_are_not_kept() {
    let of = gradual("sparsity=0.95,until=0.9", &format!("{TRAINING},patience=1"), 2);
    assert_eq!(of.log.len(), 4);
    assert!(of.log.iter().all(|epoch| epoch["best"] == true), "{:?}", of.log);
    let all: Vec<f32> = matrices(&of.bytes).concat();
    assert_eq!(zeros(&all), 51 + 616 + 114);
}

/// What was zero after an epoch is zero after all that follow.
#[test]
fn what_is_zero_stays_zero() {
    let after = |epochs: usize| {
        let of = gradual(
            "sparsity=0.8,until=0.2",
            &format!("epochs={epochs},batch-size=4,validation=0,schedule=constant"),
            1,
        );
        matrices(&of.bytes).concat()
    };
    let (early, late) = (after(5), after(10));
    assert!(early.iter().zip(&late).any(|(a, b)| a != b));
    assert_eq!((zeros(&early), zeros(&late)), (43 + 518 + 96, 43 + 518 + 96));
    let of = gradual("sparsity=0.5", "epochs=3,batch-size=4,validation=0,average=0.5", 1);
    let first = matrices(&of.bytes).concat();
    // Zeros that were there before are held from the first step on.
    let model = onnx::decode(of.bytes.into(), None).unwrap().model;
    let more = trained(&model, "sparsify(sparsity=0.7,schedule=gradual),distill(epochs=2,batch-size=4)", 1, |_| {});
    let second = matrices(&more.bytes).concat();
    assert!(first.iter().zip(&second).all(|(first, second)| *first != 0.0 || *second == 0.0));
    assert_eq!(zeros(&second), 38 + 454 + 84);
}

#[test]
fn the_same_seed_gives_the_same_zeros_on_any_number_of_threads() {
    let of = |threads| gradual("sparsity=0.6", TRAINING, threads).bytes;
    assert!(of(1) == of(2), "the models differ");
    let plain = distilled(&student(), TRAINING, 2, |_| {}).bytes;
    assert!(of(2) != plain);
}

#[test]
fn zeros_go_on_from_a_checkpoint_and_an_early_end_makes_the_last_ones_at_once() {
    for more in ["", ",average=0.8,optimizer=sgd"] {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = format!("sparsify(sparsity=0.7,schedule=gradual),distill({TRAINING}{more})");
        let whole = trained(&student(), &pipeline, 1, |_| {});
        let keep = |cx: &mut Context| cx.checkpoints = Some(folder.path().into());
        let part = trained(&student(), &pipeline, 1, |cx| {
            keep(cx);
            cx.observers.push(Box::new(Interrupt { finish: cx.finish.clone(), steps: 30 }));
        });
        assert_eq!(part.log.len(), 2);
        assert!(part.notes.iter().any(|note| note.contains("weights became zero at once")), "{:?}", part.notes);
        assert_eq!(zeros(&matrices(&part.bytes).concat()), 38 + 454 + 84);
        let resumed = trained(&student(), &pipeline, 2, keep);
        assert_eq!(resumed.log, whole.log);
        assert!(resumed.bytes == whole.bytes, "the models differ");
        // Another share is another training.
        let other = pipeline.replace("0.7", "0.6");
        assert_eq!(trained(&student(), &other, 1, keep).log.len(), 4);
    }
}

#[test]
fn what_does_not_go_together_with_gradual_zeros_is_refused() {
    assert_refused(&[
        ("sparsify(sparsity=0.5,schedule=gradual)", "which has to be `distill`"),
        ("sparsify(sparsity=0.5,schedule=gradual),cleanup,distill", "which has to be `distill`"),
        ("sparsify(sparsity=0.5,schedule=gradual,criterion=wanda),distill", "it is for `criterion=magnitude`"),
        ("sparsify(sparsity=0.5,schedule=gradual,store=sparse),distill", "`store=sparse` is for weights"),
        ("sparsify(sparsity=0.5,schedule=gradual,until=0),distill", "`until` is a share above 0"),
        ("sparsify(sparsity=0.5,until=0.5),distill", "`until` is for `schedule=gradual`"),
    ]);
    assert_eq!(refusal("sparsify(pattern=1:4,schedule=gradual),distill(epochs=3)"), None);
    let mut cx = Context::default();
    let frozen =
        Pipeline::parse("sparsify(sparsity=0.5,schedule=gradual),distill(freeze=[head])", passes::ALL).unwrap();
    let mut model: Model = student();
    let error = frozen.run(&mut model, &mut cx).unwrap_err().to_string();
    assert!(error.contains("`head` is to become zero, bit by bit, and is not trained"), "{error}");
}
