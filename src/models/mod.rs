//! Architectures.

pub mod source;
