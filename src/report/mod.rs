//! What a user is told: tables for people; JSON comes from the structs themselves.

mod comparison;

pub use comparison::ComparisonTable;
