//! Runs CUDA kernels on the CPU, and checks them more strictly than a GPU would.

pub mod isa;
pub mod number;
mod parse;

pub use parse::{ParseError, parse};
