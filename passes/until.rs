//! `until`: how much of a training passes by before all is done that a pass with `schedule=gradual` leaves to it.

use crate::pass::{PassError, refuse_unless};

/// The share of it where nothing is said.
pub const UNTIL: f64 = 0.75;

/// Refuses what is no share, and any where nothing is left to the training.
pub fn check_until(until: Option<f64>, is_gradual: bool) -> Result<(), PassError> {
    refuse_unless(is_gradual || until.is_none(), "`until` is for `schedule=gradual`")?;
    refuse_unless(until.is_none_or(|until| until > 0.0 && until <= 1.0), "`until` is a share above 0, up to 1")
}
