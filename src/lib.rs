//! Fine-tunes pretrained text encoders with kernels written by hand.
//!
//! The modules stand in dependency order: a module uses only modules above it (`tests/all/rules.rs` holds this).

// What needs no device.
pub mod error;
pub mod rng;
pub mod shape;
// Where: memory and launches.
pub mod device;
// What, and how it is differentiated.
pub mod ops;
pub mod tape;
// What is learnt.
pub mod checkpoint;
pub mod optim;
pub mod params;
// Architectures.
pub mod models;
pub mod nn;
// Problems.
pub mod data;
pub mod metrics;
pub mod tasks;
pub mod text;
// The loop.
pub mod train;
// The program.
pub mod cli;
