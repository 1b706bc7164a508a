//! Every test but the op harness, in one binary: one file of `tests/all/` a subject.
#[path = "all/rules.rs"]
mod rules;
