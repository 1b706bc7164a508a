//! Every test but the op harness, in one binary: one file of `tests/all/` a subject.
#[path = "all/checkpoint.rs"]
mod checkpoint;
#[cfg(feature = "hub")]
#[path = "all/hub.rs"]
mod hub;
#[path = "all/rules.rs"]
mod rules;
#[path = "all/weights.rs"]
mod weights;
