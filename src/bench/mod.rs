//! Benchmarks: every op at the shapes of real models or of the user, training steps, and comparisons of
//! results.
//!
//! [`ops`] and [`step`] measure and fill a [`Report`]; [`compare()`] reads reports; [`page`], [`markdown`]
//! and [`csv`](mod@csv) write them. [`pareto`] compares whole models: score against speed and size.

mod cache;
pub mod ceilings;
pub mod compare;
pub mod csv;
pub mod markdown;
pub mod measure;
pub mod monitor;
pub mod operands;
pub mod ops;
pub mod pace;
pub mod page;
pub mod pareto;
mod queue;
pub mod report;
pub mod samples;
pub mod shapes;
pub mod step;

pub use ceilings::CeilingEffort;
pub use compare::{Comparison, Verdict, compare};
pub use measure::{Clock, Effort, Quartiles, SystemClock, Workbench};
pub use monitor::{Control, Monitor, NvmlMonitor};
pub use report::Report;
pub use shapes::{CustomShape, Job, LengthSource, ModelShape, SequenceLengths, jobs};
