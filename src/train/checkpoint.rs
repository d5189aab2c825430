//! Where training can go on after the program was killed: one .npz file, written whole after each epoch.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::course::{Course, Epoch, Settings};
use super::fit::{Judgement, State};
use super::optimizer::Updates;
use crate::data::{read_npz, write_npz};
use crate::ir::Tensor;

/// A place for the state of one training.
pub struct Checkpoint {
    file: PathBuf,
    /// Tells this training from others: what is trained, on what, and how.
    identity: String,
}

/// All that is not an array.
#[derive(Serialize, Deserialize)]
struct Record {
    identity: String,
    notes: Vec<String>,
    divergences: usize,
    steps: i32,
    has_best: bool,
    has_accuracy: bool,
}

impl Checkpoint {
    /// In `folder`, which is made if it is not there, and may hold the states of other trainings.
    pub fn new(folder: &Path, identity: String) -> Result<Checkpoint, TrainError> {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let file = folder.join(format!("training-{:016x}.npz", hasher.finish()));
        std::fs::create_dir_all(folder).map_err(|error| wrong(&file, error))?;
        Ok(Checkpoint { file, identity })
    }

    pub(super) fn save(&self, course: &Course) -> Result<(), TrainError> {
        let best = course.best.as_ref();
        let record = Record {
            identity: self.identity.clone(),
            notes: course.notes.clone(),
            divergences: course.divergences,
            steps: course.updates.steps(),
            has_best: best.is_some(),
            has_accuracy: best.is_some_and(|(judgement, _)| judgement.accuracy.is_some()),
        };
        let text = serde_json::to_vec(&record).expect("a record is plain data");
        let mut arrays = vec![("record".to_string(), Tensor::from_vec(vec![text.len()], text))];
        // Numbers are arrays, since text rounds them.
        let judged = best.map_or([0.0; 2], |(judgement, _)| [judgement.loss, judgement.accuracy.unwrap_or(0.0)]);
        let numbers = vec![course.factor, judged[0], judged[1]];
        arrays.push(("numbers".into(), Tensor::from_vec(vec![3], numbers)));
        let epochs: Vec<f64> = course.epochs.iter().flat_map(to_row).collect();
        arrays.push(("epochs".into(), Tensor::from_vec(vec![course.epochs.len(), EPOCH], epochs)));
        let mut add = |name: &str, all: &[Vec<f32>]| {
            for (index, one) in all.iter().enumerate() {
                arrays.push((format!("{name}.{index}"), Tensor::from_vec(vec![one.len()], one.clone())));
            }
        };
        let mut add_state = |name: &str, state: &State| {
            add(&format!("{name}.weight"), &state.weights);
            add(&format!("{name}.statistic"), &state.statistics);
        };
        add_state("last", &course.last);
        if let Some(average) = &course.average {
            add_state("average", average);
        }
        if let Some((_, state)) = best {
            add_state("best", state);
        }
        let (first, second) = course.updates.memories();
        add("first", &first);
        add("second", &second);
        write_npz(&self.file, &arrays).map_err(|error| wrong(&self.file, error))
    }

    /// Where the training was left; none where there is no file yet.
    ///
    /// # Errors
    /// If the file is damaged, or of another training.
    pub(super) fn load(&self, settings: &Settings) -> Result<Option<Course>, TrainError> {
        if !self.file.exists() {
            return Ok(None);
        }
        let arrays = read_npz(&self.file).map_err(|error| wrong(&self.file, error))?;
        let find = |name: &str| arrays.iter().find(|(of, _)| of == name).map(|(_, tensor)| tensor);
        let damaged = || wrong(&self.file, "it is no checkpoint, or damaged; remove it");
        let record = find("record").and_then(|tensor| tensor.bytes()).ok_or_else(damaged)?;
        let record: Record = serde_json::from_slice(record).map_err(|_| damaged())?;
        if record.identity != self.identity {
            return Err(wrong(&self.file, "it belongs to another training; remove it"));
        }
        let numbers = find("numbers").and_then(|tensor| tensor.elements::<f64>()).ok_or_else(damaged)?;
        let &[factor, loss, accuracy] = &numbers[..] else { return Err(damaged()) };
        let epochs = find("epochs").and_then(|tensor| tensor.elements::<f64>()).ok_or_else(damaged)?;
        let all = |name: &str| -> Vec<Vec<f32>> {
            let one = |index: usize| Some(find(&format!("{name}.{index}"))?.floats()?.into_owned());
            (0..).map_while(one).collect()
        };
        let state = |name: &str| State {
            weights: all(&format!("{name}.weight")),
            statistics: all(&format!("{name}.statistic")),
        };
        let judgement = Judgement { loss, accuracy: record.has_accuracy.then_some(accuracy) };
        Ok(Some(Course {
            epochs: epochs.chunks_exact(EPOCH).map(from_row).collect(),
            notes: record.notes,
            updates: Updates::resumed(
                settings.optimizer,
                settings.decay as f32,
                all("first"),
                all("second"),
                record.steps,
            ),
            last: state("last"),
            average: settings.average.map(|_| state("average")),
            best: record.has_best.then(|| (judgement, state("best"))),
            divergences: record.divergences,
            factor,
        }))
    }
}

/// Numbers of an epoch.
const EPOCH: usize = 6;

/// What is not known is no number.
fn to_row(epoch: &Epoch) -> [f64; EPOCH] {
    let known = |x: Option<f64>| x.unwrap_or(f64::NAN);
    let Epoch { loss, rate, best, .. } = *epoch;
    let best = f64::from(u8::from(best));
    [epoch.epoch as f64, loss, known(epoch.validation_loss), known(epoch.accuracy), rate, best]
}

fn from_row(row: &[f64]) -> Epoch {
    let known = |x: f64| (!x.is_nan()).then_some(x);
    Epoch {
        epoch: row[0] as usize,
        loss: row[1],
        validation_loss: known(row[2]),
        accuracy: known(row[3]),
        rate: row[4],
        best: row[5] == 1.0,
    }
}

fn wrong(file: &Path, error: impl ToString) -> TrainError {
    TrainError::Checkpoint { file: file.into(), why: error.to_string() }
}
