//! The training loop and what configures it.

pub mod recipe;
pub mod schedule;
