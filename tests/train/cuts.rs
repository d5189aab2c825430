//! Channels that are cut while a model is trained.

use onnxshrink::ir::Model;
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::passes;

use super::{Distilled, Interrupt, assert_refused, distilled, refusal, student, trained};

const TRAINING: &str = "epochs=4,batch-size=4,validation=0.2,learning-rate=0.003";

fn gradual(prune: &str, distill: &str, threads: usize) -> Distilled {
    trained(&student(), &format!("prune({prune},schedule=gradual),distill({distill})"), threads, |_| {})
}

/// How many channels the two convolutions give: 6 and 12 in the beginning.
fn channels(bytes: &[u8]) -> [usize; 2] {
    let model = onnx::decode(bytes.to_vec().into(), None).unwrap().model;
    let weight = |name: &str| {
        let (value, _) = model.all_values().find(|(_, value)| value.name == name).expect("it keeps its name");
        model.constant(value).unwrap().shape()[0]
    };
    ["w0", "w1"].map(weight)
}

fn numbers(of: &Distilled, key: &str) -> Vec<f64> {
    of.log.iter().map(|epoch| epoch[key].as_f64().unwrap()).collect()
}

#[test]
fn as_much_is_gone_in_the_end_as_was_asked_for() {
    for criterion in ["l2", "taylor", "random"] {
        let of = gradual(&format!("channels=0.5,criterion={criterion}"), TRAINING, 2);
        assert_eq!(channels(&of.bytes).iter().sum::<usize>(), 9, "{criterion}");
        assert!(of.notes.iter().any(|note| note.starts_with("cut before epochs 1, 2, 3, 4: ")), "{:?}", of.notes);
    }
    let of = gradual("channels=0.5,scope=local,criterion=activation", &format!("{TRAINING},average=0.9"), 2);
    assert_eq!(channels(&of.bytes), [3, 6]);
    let of = gradual("parameters=0.6,round-to=2", TRAINING, 2);
    assert!(channels(&of.bytes).iter().all(|channels| channels % 2 == 0));
}

#[test]
fn epochs_and_rates_are_those_of_one_training() {
    let of = gradual("channels=0.5", TRAINING, 2);
    let plain = distilled(&student(), TRAINING, 2, |_| {});
    assert_eq!(numbers(&of, "epoch"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(numbers(&of, "rate"), numbers(&plain, "rate"));
    // The first cut is made before the first step.
    assert!(numbers(&of, "loss")[0] != numbers(&plain, "loss")[0]);
}

#[test]
fn with_one_epoch_all_is_cut_at_once() {
    let training = "epochs=1,batch-size=8";
    let once = trained(&student(), &format!("prune(channels=0.5),distill({training})"), 2, |_| {});
    let of = gradual("channels=0.5", training, 2);
    assert!(of.bytes == once.bytes, "the models differ");
}

#[test]
fn the_same_seed_gives_the_same_cuts_on_any_number_of_threads() {
    for criterion in ["taylor", "variational"] {
        let of = |threads| gradual(&format!("channels=0.5,criterion={criterion},samples=16"), TRAINING, threads).bytes;
        assert!(of(1) == of(2), "the models differ by {criterion}");
    }
}

#[test]
fn cuts_go_on_from_a_checkpoint_and_an_early_end_makes_the_last_ones_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = format!("prune(channels=0.6,criterion=taylor,schedule=gradual),distill({TRAINING},average=0.8)");
    let whole = trained(&student(), &pipeline, 1, |_| {});
    let keep = |cx: &mut Context| cx.checkpoints = Some(folder.path().into());
    let part = trained(&student(), &pipeline, 1, |cx| {
        keep(cx);
        cx.observers.push(Box::new(Interrupt { finish: cx.finish.clone(), steps: 30 }));
    });
    assert_eq!(part.log.len(), 2);
    let early = "training ended too early: what was left to cut was cut at once";
    assert!(part.notes.iter().any(|note| note == early), "{:?}", part.notes);
    assert_eq!(channels(&part.bytes).iter().sum::<usize>(), channels(&whole.bytes).iter().sum::<usize>());
    let resumed = trained(&student(), &pipeline, 2, keep);
    assert_eq!(resumed.log, whole.log);
    assert!(resumed.bytes == whole.bytes, "the models differ");
}

#[test]
fn what_does_not_go_together_with_gradual_cuts_is_refused() {
    assert_refused(&[
        ("prune(channels=0.5,schedule=gradual)", "which has to be `distill`"),
        ("prune(channels=0.5,schedule=gradual),cleanup,distill", "which has to be `distill`"),
        ("prune(channels=0.5,schedule=gradual,reconstruct=true),distill", "`reconstruct` is for a cut at once"),
        ("prune(channels=0.5,schedule=gradual,criterion=obs),distill", "`criterion=obs` is for a cut at once"),
        ("prune(channels=0.5,schedule=gradual,vocabulary=2),distill", "`vocabulary` is for a cut at once"),
        ("prune(vocabulary=2,schedule=gradual),distill", "`vocabulary` is for a cut at once"),
        ("prune(channels=0.5,schedule=gradual,depth=1),distill", "`depth` is for a cut at once"),
        ("prune(channels=0.5,schedule=gradual,rewind=a.onnx),distill", "`rewind` is for a cut at once"),
        ("prune(latency=0.5,schedule=gradual),distill", "`latency` is for a cut at once"),
        ("prune(channels=0.5,schedule=gradual,until=0),distill", "`until` is a share above 0"),
        ("prune(channels=0.5,until=0.5),distill", "`until` is for `schedule=gradual`"),
    ]);
    assert_eq!(refusal("prune(macs=0.5,schedule=gradual,until=1,criterion=fisher),distill(epochs=3)"), None);
}

#[test]
fn where_nothing_can_be_cut_it_is_trained_as_it_is() {
    let mut model: Model = student();
    let mut cx = Context::default();
    let pipeline = "prune(channels=0.5,schedule=gradual,keep=[\"*\"]),distill(epochs=1)";
    let error = Pipeline::parse(pipeline, passes::ALL).unwrap().run(&mut model, &mut cx).unwrap_err();
    // It comes to `distill`, which has no samples here.
    assert!(error.to_string().contains("the pass `distill` failed: it needs samples"), "{error}");
    assert!(cx.cuts.is_none() && !cx.reports[0].changed);
}
