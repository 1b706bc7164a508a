//! tempra fine-tunes pretrained text encoders (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, ModernBERT, XLNet)
//! on the CPU, CUDA and Vulkan/Metal/DX12, with kernels written by hand. A Hugging Face model folder goes in
//! and comes out.
//!
//! Most people use the program `tempra`; its README is the place to start. This page is for who calls the
//! library. The interface may change with every version below 1.0.
//!
//! # What to call
//!
//! | to | call |
//! |---|---|
//! | read a recipe, list its keys | [`Recipe::load`](train::Recipe::load), [`Recipe::keys`](train::Recipe::keys) |
//! | train, follow the run, stop it | [`train::train`](fn@train::train), [`train::Observer`], [`train::Control`] |
//! | choose a device | [`Device::open`](device::Device::open) |
//! | open a model folder or `org/name` | [`models::source::resolve`], [`Model::open`](models::Model::open) |
//! | turn texts into tokens and batches | [`Tokenizer::from_dir`](text::Tokenizer::from_dir), [`data::TokenSet`], [`data::eval_batches`] |
//! | predict with a model folder, or score it | [`predict::Session`] |
//! | run a model over batches | [`tasks::for_each_output`], [`tasks::evaluate`] |
//! | read and check data files | [`data::read`](fn@data::read), [`data::check`](fn@data::check) |
//! | check what is on disk | [`checkpoint::verify`], [`checkpoint::Weights`] |
//! | compute ops and gradients | [`tape::Tape`], [`ops`] |
//! | run a command of the program | [`cli::command`], [`cli::run`] |
//!
//! Every fallible function returns [`error::Error`]: a kind with its exit code, the place, what was expected
//! and found, and what to do. Nothing prints, except [`cli`] and notes of a device on standard error.
//!
//! # Train from a recipe
//!
//! [`train::train`](fn@train::train) does what `tempra train` does: it resumes a run that was stopped, saves
//! checkpoints, and writes a model folder. An [`Observer`](train::Observer) sees each event, and its answer
//! may save or stop the run; `examples/observer.rs` is a program that does so.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use tempra::checkpoint::RealFs;
//! use tempra::train::{Control, Event, Observer, Observers, Recipe, Signals, train};
//!
//! /// Keeps the loss of each step.
//! struct Losses(Vec<f64>);
//!
//! impl Observer for Losses {
//!     fn event(&mut self, event: &Event) -> Control {
//!         if let Event::Step(step) = event {
//!             self.0.push(step.loss);
//!         }
//!         Control::Continue
//!     }
//! }
//!
//! /// Stops a run after so many steps, with a checkpoint.
//! struct Limit(u64);
//!
//! impl Observer for Limit {
//!     fn event(&mut self, event: &Event) -> Control {
//!         match event {
//!             Event::Step(step) if step.step >= self.0 => Control::Stop,
//!             _ => Control::Continue,
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let folder = scratch.path();
//! # std::fs::create_dir_all(folder.join("models"))?;
//! # for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
//! #     std::fs::copy(Path::new("tests/golden/bert/a").join(name), folder.join("models").join(name))?;
//! # }
//! let reviews = "text,label\nA fine film.,good\nSlow.,bad\nI enjoyed it.,good\nToo long.,bad\n";
//! std::fs::write(folder.join("reviews.csv"), reviews)?;
//! let recipe = r#"
//!     task = "classify"
//!     [model]
//!     path = "models"
//!     [data]
//!     train = "reviews.csv"
//!     max_length = 16
//!     validation_fraction = 0
//!     [train]
//!     batch_size = 2
//!     epochs = 2
//! "#;
//! // Model and data are relative to the recipe's file, which need not exist; the run folder is runs/NAME
//! // unless it is set.
//! let set = [("output".to_owned(), folder.join("run").display().to_string())];
//! let recipe = Recipe::from_toml(recipe, &folder.join("recipe.toml"), &set)?;
//! let (mut losses, mut limit) = (Losses(Vec::new()), Limit(3));
//! let mut both = Observers::default().with(&mut losses).with(&mut limit);
//! // `Signals::install()` would let Ctrl-C stop the run after a checkpoint.
//! let outcome = train(&recipe, false, Arc::new(RealFs), &Signals::default(), &mut both)?;
//! assert_eq!(outcome.steps, 3);
//! assert!(outcome.stopped_by.is_some_and(|name| name.ends_with("Limit")));
//! // The same call resumes from the checkpoint. Without the limit the run finishes.
//! let outcome = train(&recipe, false, Arc::new(RealFs), &Signals::default(), &mut losses)?;
//! assert_eq!((outcome.steps, outcome.stopped_by), (4, None));
//! assert_eq!(losses.0.len(), 4);
//! assert!(outcome.model.join("model.safetensors").exists());
//! # Ok(())
//! # }
//! ```
//!
//! # Predict
//!
//! A [`Session`](predict::Session) turns a stream of texts into a stream of predictions. It needs nothing but
//! a model folder, which also says how the texts were read in training. `examples/predict.rs` is a whole
//! program.
//!
//! ```
//! use tempra::device::Device;
//! use tempra::predict::{Predicted, Session, Settings};
//!
//! # fn main() -> tempra::error::Result<()> {
//! // A small classifier with three classes.
//! let session = Session::open("tests/golden/bert/a", Device::open("cpu", 0)?, Settings::default())?;
//! for prediction in session.predict(["A fine film.", "Too long, and far too loud."]) {
//!     let prediction = prediction?;
//!     let Predicted::Class { label, probabilities, .. } = &prediction.value else {
//!         unreachable!("its head is a classifier")
//!     };
//!     println!("{label}: {probabilities:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Score
//!
//! A [`Task`](tasks::Task) knows what labels mean; its [`Meter`](tasks::Meter) collects scores and resamples
//! them for intervals.
//!
//! ```
//! use std::path::Path;
//! use tempra::data::{Label, Row, TokenSet, eval_batches};
//! use tempra::device::Device;
//! use tempra::metrics::Bootstrap;
//! use tempra::models::{Model, Options};
//! use tempra::tasks::{Classify, evaluate};
//! use tempra::text::Tokenizer;
//!
//! # fn main() -> tempra::error::Result<()> {
//! let folder = Path::new("tests/golden/bert/a");
//! let device = Device::open("cpu", 0)?;
//! let (model, _) = Model::open(&device, folder, &Options::default())?;
//! let tokenizer = Tokenizer::from_dir(folder, model.shape().vocab)?;
//! let row = |text: &str| Row { text: text.to_owned(), pair: None, label: None, line: 1 };
//! let rows = ["A fine film.", "Too loud.", "It is a film."].map(row);
//! let labels = vec![Label::Class(2), Label::Class(0), Label::Class(1)];
//! let set = TokenSet::build(&tokenizer, &rows, labels, 40, None)?;
//!
//! let classes = ["negative", "neutral", "positive"].map(str::to_owned).to_vec();
//! let task = Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
//! let meter = evaluate(&device, &model, &task, &set, eval_batches(&set, 8192, 0)?)?;
//! let accuracy = meter.scores().get("accuracy").unwrap_or(f64::NAN);
//! let intervals = Bootstrap::default().intervals(meter.units(), |drawn| meter.scores_of(drawn));
//! let (_, interval) = intervals.iter().find(|(name, _)| name == "accuracy").expect("an accuracy");
//! assert!(interval.low <= accuracy && accuracy <= interval.high);
//! # Ok(())
//! # }
//! ```
//!
//! # Devices
//!
//! ```
//! use tempra::device::{Cuda, Device, Wgpu};
//! use tempra::error::Kind;
//!
//! # fn main() -> tempra::error::Result<()> {
//! let mut names = vec!["cpu".to_owned()];
//! names.extend((0..Cuda::count().unwrap_or(0)).map(|i| format!("cuda:{i}")));
//! names.extend((0..Wgpu::list().len()).map(|i| format!("wgpu:{i}")));
//! for name in &names {
//!     match Device::open(name, 0) {
//!         Ok(device) => println!("{name}: {}", device.caps().name),
//!         Err(e) => println!("{name} cannot be used: {e}"),
//!     }
//! }
//! // A device that is not there is an error with a remedy, never another device.
//! if let Err(e) = Device::open("cuda:99", 0) {
//!     assert_eq!((e.kind(), e.exit_code()), (Kind::Device, 5));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Ops and gradients
//!
//! A [`Tape`](tape::Tape) records ops as they run. Leaves carry the memory that their gradient goes into.
//! [`ops`] explains how to write an op; `CONTRIBUTING.md` lists the files.
//!
//! ```
//! use tempra::device::Device;
//! use tempra::ops::{Activation, linear::Linear};
//! use tempra::shape::DType;
//! use tempra::tape::{Leaf, Tape};
//!
//! # fn main() -> tempra::error::Result<()> {
//! let device = Device::open("cpu", 1)?;
//! // y = relu(x w^T): one row of two numbers, two outputs; weights as in PyTorch's nn.Linear.
//! let x = device.upload(DType::F32, &[1, 2], &[1.0f32, 2.0])?;
//! let w = device.upload(DType::F32, &[2, 2], &[0.5f32, 1.0, -1.0, 0.25])?;
//! let grad = device.zeros(DType::F32, &[2, 2])?;
//!
//! let mut tape = Tape::new(&device);
//! let (x, w) = (tape.constant(x), tape.leaf(Leaf::new(w, grad.clone(), false)));
//! let y = tape.apply(Linear { act: Activation::Relu }, [x, w])?;
//! assert_eq!(device.read::<f32>(y.value())?, [2.5, 0.0]);
//!
//! // dL/dy = 1 for both outputs; the second one is off, so its weights have no gradient.
//! let seed = device.upload(DType::F32, &[1, 2], &[1.0f32, 1.0])?;
//! tape.backward(y, seed)?;
//! assert_eq!(device.read::<f32>(&grad)?, [1.0, 2.0, 0.0, 0.0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! They stand in dependency order: a module uses only modules above it (`tests/all/rules.rs` checks it).
//! `docs/ARCHITECTURE.md` follows a text, a batch and an op through them.

// What needs no device.
pub mod error;
pub mod console;
pub mod rng;
pub mod shape;
pub mod suggest;
pub mod units;
pub mod cache;
pub mod files;
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
// Inference.
pub mod predict;
// Smaller models.
pub mod compress;
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

/// The commit that this build was made from, if it was built in a git repository or with `TEMPRA_COMMIT` set.
/// It does not show changes that were not committed.
pub const COMMIT: Option<&str> = option_env!("TEMPRA_COMMIT");
