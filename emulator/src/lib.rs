//! Runs CUDA kernels on the CPU, and checks them more strictly than a GPU would.

pub mod isa;
mod block;
pub mod cubin;
pub mod driver;
mod exec;
pub mod finding;
mod launch;
mod memory;
pub mod number;
mod parse;
mod schedule;
mod shadow;
mod tensor_map;
mod warp;

pub use finding::{Finding, Kind, Place};
pub use isa::{Kernel, Module};
pub use launch::{Grid, Loaded, Options, Report, Stats, launch};
pub use memory::{BadAddress, Memory};
pub use parse::{ParseError, parse};
pub use tensor_map::TensorMap;
