//! Smaller models: the teacher that a student learns from, pruning, folders without what pruning zeroed.

pub mod layers;
pub mod live;
pub mod prune;
pub mod shrink;
pub mod teacher;

pub use live::{LiveFolder, LiveHead, LiveTeacher};
pub use teacher::{SoftTargets, Taught, Teacher};
