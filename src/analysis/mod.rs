//! What can be learned of a model by looking at it.

pub mod channels;
pub mod cost;
pub mod shapes;
mod sizes;

pub use channels::Channels;
pub use cost::Cost;
pub use shapes::Shapes;
pub use sizes::{FixedSizes, SizeError};
