//! Pipelines: parsed, printed, and the one loop that runs their passes.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::{Map, Value as Json};

use super::notation::{self, NotationError, Written};
use super::{Context, Effect, Needs, Pass, PassError, PassInfo, PassKind, PassReport, passes};
use crate::ir::{Model, VerifierError};

/// Passes in the order they run.
///
/// Prints in the notation it is parsed from, with every option of every pass; `{:#}` leaves out those at their defaults.
#[derive(Default)]
pub struct Pipeline(Vec<Item>);

enum Item {
    Pass(Step),
    /// Passes that run in turn until none of them changes the model.
    Repeat(Vec<Item>),
}

/// One pass of a pipeline.
pub struct Step {
    info: &'static PassInfo,
    given: Map<String, Json>,
    resolved: Map<String, Json>,
    pass: Box<dyn Pass>,
    implied: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("the pass `{pass}` failed: {error}")]
    Pass { pass: String, error: PassError },
    #[error("the pipeline was given a malformed model: {0}")]
    Malformed(#[from] VerifierError),
    #[error("stopped on request")]
    Cancelled,
}

/// Rounds of a repeat: what still changes after so many is a pass that undoes another.
const ROUNDS: usize = 20;

impl Pipeline {
    /// Reads a pipeline; the name of a group stands for `repeat(...)` of its passes.
    pub fn parse(text: &str, table: &'static [PassInfo]) -> Result<Pipeline, NotationError> {
        let items = notation::parse(text)?.into_iter().map(|written| resolve(written, table));
        let items: Vec<Item> = items.collect::<Result<_, _>>()?;
        check_order(&items)?;
        Ok(Pipeline(items))
    }

    pub fn is_empty(&self) -> bool {
        self.steps().next().is_none()
    }

    /// Every pass, in order, those of repeats once.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        let mut found = Vec::new();
        collect_steps(&self.0, &mut found);
        found.into_iter()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.steps().any(|step| step.name() == name)
    }

    /// The pipeline with a pass in front that nobody asked for.
    pub fn after_implied(self, name: &str, table: &'static [PassInfo]) -> Result<Pipeline, NotationError> {
        let first = implied(find(name, table)?)?;
        Ok(Pipeline(std::iter::once(first).chain(self.0).collect()))
    }

    /// The pipeline with a pass behind it that nobody asked for.
    pub fn before_implied(self, name: &str, table: &'static [PassInfo]) -> Result<Pipeline, NotationError> {
        let last = implied(find(name, table)?)?;
        Ok(Pipeline(self.0.into_iter().chain([last]).collect()))
    }

    /// The pipeline with `entries` added to the list that is an option of each `pass`.
    ///
    /// # Panics
    /// If `pass` has no such option, or it takes no such entries.
    pub fn extended(&self, pass: &str, option: &str, entries: &[Json]) -> Pipeline {
        self.edited(pass, |options| {
            let list = options.entry(option).or_insert_with(|| Json::Array(Vec::new()));
            list.as_array_mut().expect("the option is a list").extend_from_slice(entries);
        })
    }

    /// The pipeline with an option of each `pass` that does not give it.
    ///
    /// # Panics
    /// If `pass` has no such option, or it takes no such value.
    pub fn with_option(&self, pass: &str, option: &str, value: Json) -> Pipeline {
        self.edited(pass, |options| {
            options.entry(option).or_insert_with(|| value.clone());
        })
    }

    fn edited(&self, pass: &str, edit: impl Fn(&mut Map<String, Json>)) -> Pipeline {
        Pipeline(self.0.iter().map(|item| edited(item, pass, &edit)).collect())
    }

    pub fn effect(&self) -> Effect {
        match self.steps().any(|step| step.pass.effect() == Effect::Lossy) {
            true => Effect::Lossy,
            false => Effect::Exact,
        }
    }

    /// The pass that asks for the most data.
    pub fn needs(&self) -> (Needs, Option<&Step>) {
        let step = self.steps().max_by_key(|step| step.pass.needs());
        (step.map_or(Needs::Nothing, |step| step.pass.needs()), step)
    }

    /// Runs every pass on `model`; `cx` gets a report of each.
    pub fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PipelineError> {
        cx.inferred = None;
        run_items(&self.0, model, cx).map(|_| ())
    }
}

impl Step {
    pub fn name(&self) -> &'static str {
        self.info.name
    }

    pub fn info(&self) -> &'static PassInfo {
        self.info
    }

    /// All options, those at their defaults too.
    pub fn options(&self) -> &Map<String, Json> {
        &self.resolved
    }
}

fn resolve(written: Written, table: &'static [PassInfo]) -> Result<Item, NotationError> {
    let (name, options) = match written {
        Written::Pass { name, options } => (name, options),
        Written::Repeat(items) => {
            let items: Vec<Item> = items.into_iter().map(|item| resolve(item, table)).collect::<Result<_, _>>()?;
            check_order(&items)?;
            return Ok(Item::Repeat(items));
        }
    };
    let info = find(&name, table)?;
    check_options(info, &options)?;
    match &info.kind {
        PassKind::Pass { make, .. } => {
            let bad = |error: serde_json::Error| NotationError::BadOption { pass: name, what: error.to_string() };
            let (pass, resolved) = make(options.clone()).map_err(bad)?;
            let refused =
                |error: PassError| NotationError::BadOption { pass: info.name.into(), what: error.to_string() };
            pass.check().map_err(refused)?;
            Ok(Item::Pass(Step { info, given: options, resolved, pass, implied: false }))
        }
        PassKind::Group(members) => Ok(Item::Repeat(members.iter().map(implied).collect::<Result<_, _>>()?)),
    }
}

/// Whether every pass that leaves something to do has the one behind it that does it.
fn check_order(items: &[Item]) -> Result<(), NotationError> {
    for (index, item) in items.iter().enumerate() {
        let Item::Pass(Step { info, pass, .. }) = item else { continue };
        let Some((wanted, option)) = pass.leads_to() else { continue };
        let follows = matches!(items.get(index + 1), Some(Item::Pass(next)) if next.name() == wanted);
        if !follows {
            let what = format!("`{option}` is done by the pass behind it, which has to be `{wanted}`");
            return Err(NotationError::BadOption { pass: info.name.into(), what });
        }
    }
    Ok(())
}

/// A pass with its default options, that is not asked for by its name.
fn implied(info: &'static PassInfo) -> Result<Item, NotationError> {
    let written = Written::Pass { name: info.name.into(), options: Map::new() };
    let mut item = resolve(written, std::slice::from_ref(info))?;
    if let Item::Pass(step) = &mut item {
        step.implied = true;
    }
    Ok(item)
}

fn edited(item: &Item, pass: &str, edit: &impl Fn(&mut Map<String, Json>)) -> Item {
    match item {
        Item::Repeat(items) => Item::Repeat(items.iter().map(|item| edited(item, pass, edit)).collect()),
        Item::Pass(step) => {
            let mut options = step.given.clone();
            if step.name() == pass {
                edit(&mut options);
            }
            let written = Written::Pass { name: step.name().into(), options };
            let mut item = resolve(written, std::slice::from_ref(step.info)).expect("it was made from such options");
            if let Item::Pass(made) = &mut item {
                made.implied = step.implied;
            }
            item
        }
    }
}

/// The entry of `table` with this name: a pass or a group.
pub fn find(name: &str, table: &'static [PassInfo]) -> Result<&'static PassInfo, NotationError> {
    let groups = || table.iter().filter(|info| matches!(info.kind, PassKind::Group(_)));
    groups().chain(passes(table)).find(|info| info.name == name).ok_or_else(|| {
        let known: Vec<_> = groups().chain(passes(table)).map(|info| info.name.to_string()).collect();
        NotationError::UnknownPass { name: name.into(), suggestion: nearest(name, &known), known }
    })
}

fn check_options(info: &PassInfo, options: &Map<String, Json>) -> Result<(), NotationError> {
    let known: Vec<_> = info.options().into_iter().map(|option| option.name).collect();
    match options.keys().find(|option| !known.contains(option)) {
        Some(option) => Err(NotationError::UnknownOption {
            pass: info.name.into(),
            option: option.clone(),
            suggestion: nearest(option, &known),
            known,
        }),
        None => Ok(()),
    }
}

/// The known name that `name` is most likely a slip of.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let close = known.iter().map(|other| (strsim::jaro_winkler(name, other), other));
    let best = close.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then(|| best.1.clone())
}

fn collect_steps<'p>(items: &'p [Item], found: &mut Vec<&'p Step>) {
    for item in items {
        match item {
            Item::Pass(step) => found.push(step),
            Item::Repeat(items) => collect_steps(items, found),
        }
    }
}

/// `Break` where an observer ended the pipeline.
fn run_items(items: &[Item], model: &mut Model, cx: &mut Context) -> Result<ControlFlow<()>, PipelineError> {
    for item in items {
        let flow = match item {
            Item::Pass(step) => run_step(step, model, cx)?,
            Item::Repeat(items) => repeat(items, model, cx)?,
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Runs `items` in turn until each has left the model as it found it.
fn repeat(items: &[Item], model: &mut Model, cx: &mut Context) -> Result<ControlFlow<()>, PipelineError> {
    let mut settled_at = vec![None; items.len()];
    for _ in 0..ROUNDS {
        for (item, settled) in items.iter().zip(&mut settled_at) {
            let before = model.revision();
            if *settled == Some(before) {
                continue;
            }
            if run_items(std::slice::from_ref(item), model, cx)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            *settled = (model.revision() == before).then_some(before);
        }
        if settled_at.iter().all(|settled| *settled == Some(model.revision())) {
            break;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn run_step(step: &Step, model: &mut Model, cx: &mut Context) -> Result<ControlFlow<()>, PipelineError> {
    if cx.is_cancelled() {
        return Err(PipelineError::Cancelled);
    }
    let failed = |error| PipelineError::Pass { pass: step.name().into(), error };
    if cx.observers.iter_mut().any(|observer| observer.before(step, model).is_break()) {
        return Ok(ControlFlow::Break(()));
    }

    // The imported operator sets are no part of a graph, so that the revision does not tell of them.
    let state = |model: &Model| (model.revision(), model.opsets.clone());
    let (before, start) = (state(model), Instant::now());
    step.pass.run(model, cx).map_err(failed)?;
    // What is left for the next pass to do is no idle run either.
    let is_left = step.pass.leads_to().is_some() && (cx.ramp.is_some() || cx.cuts.is_some());
    let changed = state(model) != before || is_left;
    let time = start.elapsed();

    let (outcomes, notes) = (std::mem::take(&mut cx.outcomes), std::mem::take(&mut cx.notes));
    let written = format!("{step:#}");
    let known = cx.reports.iter().position(|report| report.pass == written).unwrap_or_else(|| {
        let summary = step.info.summary.into();
        let implied = step.implied;
        cx.reports.push(PassReport { pass: written, summary, implied, ..PassReport::default() });
        cx.reports.len() - 1
    });
    let log = std::mem::take(&mut cx.log);
    let report = &mut cx.reports[known];
    report.log.extend(log);
    report.changed |= changed;
    report.time += time;
    report.add_run(outcomes, notes, model, cx.explain);

    cx.observers.iter_mut().try_for_each(|observer| observer.after(step, changed, model)).map_err(failed)?;
    Ok(ControlFlow::Continue(()))
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write_items(f, &self.0)
    }
}

fn write_items(f: &mut fmt::Formatter, items: &[Item]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        match item {
            Item::Pass(step) => fmt::Display::fmt(step, f)?,
            Item::Repeat(items) => {
                f.write_str("repeat(")?;
                write_items(f, items)?;
                f.write_str(")")?;
            }
        }
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if !f.alternate() {
            return notation::write_pass(f, self.info.name, &self.resolved);
        }
        let defaults = self.info.options();
        let is_default =
            |name: &str, value| defaults.iter().any(|o| o.name == name && o.default.as_ref() == Some(value));
        let given = self.given.iter().filter(|(name, value)| !is_default(name, value));
        notation::write_pass(f, self.info.name, &given.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proptest::prelude::*;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::ir::op::{Identity, Relu};
    use crate::pass::{PrintAfter, StopAfter, Verify};

    const TABLE: &[PassInfo] = &[
        PassInfo::group(
            "tidy",
            "Both",
            &[PassInfo::of::<Grow>("grow", "Adds nodes"), PassInfo::of::<Idle>("idle", "")],
        ),
        PassInfo::of::<Tune>("tune", "Has every kind of option"),
    ];

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Idle {}

    impl Pass for Idle {
        fn run(&self, _: &mut Model, _: &mut Context) -> Result<(), PassError> {
            Ok(())
        }
    }

    /// Appends nodes until there are enough.
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Grow {
        /// The number of nodes
        /// to stop at.
        #[serde(default = "three")]
        until: usize,
    }

    fn three() -> usize {
        3
    }

    impl Pass for Grow {
        fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
            let nodes = model.all_nodes().count();
            if nodes < self.until {
                let x = model.graph(model.main).inputs[0];
                model.append(model.main, "y", Relu { x });
                cx.applied("grown", 1);
            } else {
                let node = model.all_nodes().next().expect("it grew");
                cx.missed("grown", node, crate::rewrite::Miss("it is large enough"));
            }
            Ok(())
        }
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Tune {
        amount: f64,
        name: String,
        keep_all: bool,
        list: Vec<String>,
        extra: serde_json::Value,
        limit: Option<usize>,
        mode: Mode,
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        /// Does little.
        #[default]
        Fast,
        Slow,
    }

    impl Pass for Tune {
        fn run(&self, _: &mut Model, _: &mut Context) -> Result<(), PassError> {
            Err(PassError("it never works".into()))
        }

        fn effect(&self) -> Effect {
            Effect::Lossy
        }

        fn needs(&self) -> Needs {
            Needs::Inputs
        }
    }

    fn parse(text: &str) -> Pipeline {
        Pipeline::parse(text, TABLE).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(text: &str) -> String {
        Pipeline::parse(text, TABLE).err().expect("an error").to_string()
    }

    fn model() -> Model {
        let mut model = Model::new("test");
        let x = model.add_input(model.main, "x");
        let y = model.append(model.main, "y", Identity { x });
        model.add_output(model.main, y);
        model
    }

    #[test]
    fn an_option_is_added_where_it_is_not_given() {
        let pipeline = parse("grow,tidy,grow(until=5)").with_option("grow", "until", 2.into());
        let steps: Vec<String> = pipeline.steps().map(|step| format!("{step:#}")).collect();
        assert_eq!(steps, ["grow(until=2)", "grow(until=2)", "idle", "grow(until=5)"]);
    }

    #[test]
    fn a_pipeline_prints_with_all_its_options_and_reads_back() {
        let written = r#" grow , tune( amount=0.3, list=["/a,b", "*/head*"], mode = slow, extra={a=[1,{b=null}]}) "#;
        let printed = parse(written).to_string();
        insta::assert_snapshot!(printed, @r#"grow(until=3),tune(amount=0.3,name="",keep-all=false,list=["/a,b",*/head*],extra={a=[1,{b=null}]},limit=null,mode=slow)"#);
        assert_eq!(parse(&printed).to_string(), printed);
        insta::assert_snapshot!(format!("{:#}", parse(&printed)), @r#"grow,tune(amount=0.3,list=["/a,b",*/head*],extra={a=[1,{b=null}]},mode=slow)"#);
    }

    #[test]
    fn a_group_is_written_as_a_repeat_of_its_passes() {
        assert_eq!(parse("tidy,idle").to_string(), "repeat(grow(until=3),idle),idle");
        assert_eq!(parse("repeat(grow(until=3),idle),idle").to_string(), "repeat(grow(until=3),idle),idle");
    }

    #[test]
    fn an_empty_text_is_an_empty_pipeline() {
        assert!(parse("").is_empty() && parse("  ").is_empty());
        assert_eq!(parse("").to_string(), "");
    }

    #[test]
    fn errors_name_the_known_passes_and_options_and_suggest_one() {
        insta::assert_snapshot!(error("tun"), @"there is no pass called `tun`; did you mean `tune`? the passes are tidy, grow, idle, tune");
        insta::assert_snapshot!(error("zzz"), @"there is no pass called `zzz`; the passes are tidy, grow, idle, tune");
        insta::assert_snapshot!(error("grow(untill=3)"), @"the pass `grow` has no option `untill`; did you mean `until`? its options are until");
        insta::assert_snapshot!(error("tidy(x=1)"), @"the pass `tidy` has no option `x`; it has none");
        insta::assert_snapshot!(error("grow(until=many)"), @r#"the options of the pass `grow` are unusable: invalid type: string "many", expected usize; `onnxshrink passes grow` explains them"#);
    }

    #[test]
    fn syntax_errors_say_what_is_expected_where() {
        let texts =
            ["grow(until=3", "grow(until)", "grow,,idle", "grow(until=)", "grow(until=[1)", "grow(until=1,until=2)"];
        let errors: Vec<_> = texts.map(error).into();
        insta::assert_snapshot!(errors.join("\n"));
        assert!(error(&format!("tune(extra={})", "[".repeat(100_000))).contains("too deep nesting"));
    }

    #[test]
    fn a_repeat_ends_when_nothing_changes_and_reports_each_pass_once() {
        let (mut model, mut cx) = (model(), Context::default());
        parse("repeat(grow(until=5),idle)").run(&mut model, &mut cx).unwrap();
        assert_eq!(model.all_nodes().count(), 5);
        let names: Vec<_> = cx.reports.iter().map(|report| (report.pass.as_str(), report.changed)).collect();
        assert_eq!(names, [("grow(until=5)", true), ("idle", false)]);
        assert_eq!(cx.reports[0].applied["grown"], 4);
        assert_eq!(cx.reports[0].missed[0].reason, "it is large enough");
        assert_eq!(cx.reports[0].missed[0].nodes, ["Identity `y`"]);
    }

    #[test]
    fn a_repeat_is_bounded() {
        let (mut model, mut cx) = (model(), Context::default());
        parse("repeat(grow(until=1000000))").run(&mut model, &mut cx).unwrap();
        assert_eq!(cx.reports[0].runs, ROUNDS);
    }

    #[test]
    fn observers_stop_and_print_and_see_every_run() {
        let (mut model, mut cx) = (model(), Context::default());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        let print = move |step: &Step, model: &Model| log.borrow_mut().push((step.name(), model.all_nodes().count()));
        cx.observers =
            vec![Box::new(Verify), Box::new(PrintAfter { passes: vec!["grow".into()], print }), Box::new(StopAfter(3))];
        parse("repeat(grow(until=5),idle)").run(&mut model, &mut cx).unwrap();
        assert_eq!(*seen.borrow(), [("grow", 2), ("grow", 3)]);
    }

    #[test]
    fn failures_name_the_pass() {
        let failed = parse("tune").run(&mut model(), &mut Context::default()).unwrap_err();
        assert_eq!(failed.to_string(), "the pass `tune` failed: it never works");
    }

    #[test]
    fn a_cancelled_pipeline_runs_no_further_pass() {
        let (mut model, mut cx) = (model(), Context::default());
        cx.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(parse("grow").run(&mut model, &mut cx), Err(PipelineError::Cancelled)));
        assert_eq!(model.all_nodes().count(), 1);
    }

    #[test]
    fn a_pipeline_asks_for_what_its_passes_need() {
        assert_eq!(parse("grow").needs().0, Needs::Nothing);
        assert_eq!(parse("grow,tune,idle").needs().0, Needs::Inputs);
        assert_eq!((parse("grow").effect(), parse("grow,tune").effect()), (Effect::Exact, Effect::Lossy));
    }

    #[test]
    fn options_are_told_with_text_default_and_choices() {
        let [until] = &passes(TABLE).next().unwrap().options()[..] else { panic!("one option") };
        assert_eq!((until.text.as_str(), &until.default), ("The number of nodes to stop at.", &Some(Json::from(3))));
        let options = TABLE[1].options();
        let mode = options.iter().find(|option| option.name == "mode").unwrap();
        assert_eq!(mode.choices, [("slow".into(), String::new()), ("fast".into(), "Does little.".into())]);
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Json::from),
            any::<String>().prop_map(Json::from),
            "[a-z/*.0-9, -]{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|entries| Json::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_survives_printing_and_parsing(value in json()) {
            let options = Map::from_iter([("extra".to_string(), value.clone())]);
            let step = |options: Map<String, Json>| resolve(Written::Pass { name: "tune".into(), options }, TABLE);
            let printed = Pipeline(vec![step(options).unwrap()]).to_string();
            let read = parse(&printed);
            prop_assert_eq!(&read.steps().next().unwrap().resolved["extra"], &value);
            prop_assert_eq!(read.to_string(), printed);
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in r#"[a-z(){}\[\],="\\ ]{0,40}"#) {
            let _ = Pipeline::parse(&text, TABLE);
        }
    }
}
