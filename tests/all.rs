//! Every test but the op harness, in one binary: one file of `tests/all/` a subject.
#[path = "all/batches.rs"]
mod batches;
#[path = "all/checkpoint.rs"]
mod checkpoint;
#[path = "all/cli.rs"]
mod cli;
#[path = "all/data.rs"]
mod data;
#[cfg(feature = "hub")]
#[path = "all/hub.rs"]
mod hub;
#[path = "all/init.rs"]
mod init;
#[path = "all/metrics.rs"]
mod metrics;
#[path = "all/recipe.rs"]
mod recipe;
#[path = "all/rules.rs"]
mod rules;
#[path = "all/schedule.rs"]
mod schedule;
#[path = "all/text.rs"]
mod text;
#[path = "all/weights.rs"]
mod weights;
