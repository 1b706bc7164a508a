//! Smaller models: pruning.

pub mod prune;
