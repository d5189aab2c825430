//! What can be learned of a model by looking at it.

pub mod shapes;

pub use shapes::Shapes;
