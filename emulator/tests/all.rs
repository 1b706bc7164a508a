//! Tests of the emulator on kernels that NVRTC compiles.

#[path = "all/checks.rs"]
mod checks;
#[path = "all/client.rs"]
mod client;
#[path = "all/collection.rs"]
mod collection;
#[path = "all/fixed.rs"]
mod fixed;
#[path = "all/fuzz.rs"]
mod fuzz;
#[path = "all/gpu.rs"]
mod gpu;
#[path = "all/nvrtc.rs"]
mod nvrtc;
#[path = "all/planted.rs"]
mod planted;
#[path = "all/program.rs"]
mod program;
#[path = "all/speed.rs"]
mod speed;
