//! Smaller models: the teacher that a student learns from, pruning.

pub mod prune;
pub mod teacher;

pub use teacher::{SoftTargets, Taught, Teacher};
