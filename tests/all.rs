//! Every test but the op harness, in one binary: one file of `tests/all/` a subject.
#[path = "all/batches.rs"]
mod batches;
#[path = "all/data.rs"]
mod data;
#[path = "all/rules.rs"]
mod rules;
#[path = "all/text.rs"]
mod text;
