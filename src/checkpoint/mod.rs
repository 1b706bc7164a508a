//! Files: reads weights, writes checkpoints, and keeps a run folder consistent when the process is killed at
//! any moment.
//!
//! Nothing here uses a device. Weights are read from Hugging Face safetensors ([`Weights`]); pickles are
//! refused, because reading one runs code. A run folder ([`RunDir`]) publishes a checkpoint by one `rename`,
//! after every byte is hashed and synced. All writing goes through [`Fs`], so that tests can fail or stop at
//! every single operation of a save.

mod convert;
pub mod journal;
pub mod json;
mod layout;
mod manifest;
mod names;
mod previous;
pub mod run;
pub mod tensors;
mod write;

pub use crate::files::{Fs, RealFs, Sink};
pub use journal::{Journal, number};
pub use json::read_json;
pub use layout::{check_run_folder, check_seeds_folder, is_run_entry, is_run_folder, real_path};
pub use manifest::{CheckpointReport, VerifyReport, Written, changes, verify};
pub use run::{Newest, RunDir, Saved};
pub use safetensors::Dtype;
pub use tensors::{View, Weights};
pub use write::{Body, NamedFile, TensorOut, write_dir, write_file, write_model, write_safetensors};
