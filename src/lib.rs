//! Fine-tunes pretrained text encoders with kernels written by hand.
//!
//! The modules stand in dependency order: a module uses only modules above it (`tests/all/rules.rs` holds this).

// What needs no device.
pub mod error;
pub mod console;
pub mod rng;
pub mod shape;
pub mod suggest;
pub mod units;
pub mod cache;
// Where: memory and launches.
pub mod device;
// What, and how it is differentiated.
pub mod ops;
pub mod tape;
pub mod parity;
// What is learnt.
pub mod params;
pub mod checkpoint;
pub mod optim;
// Architectures.
pub mod nn;
pub mod models;
// Problems.
pub mod text;
pub mod data;
pub mod metrics;
pub mod tasks;
// The loop.
pub mod train;
// Outputs.
pub mod bench;
// The program.
pub mod cli;

/// The optional features that this build contains, by their names in `Cargo.toml`.
pub const FEATURES: &[(&str, bool)] = &[
    ("parquet", cfg!(feature = "parquet")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("hub", cfg!(feature = "hub")),
];
