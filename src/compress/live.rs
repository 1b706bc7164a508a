//! A teacher that runs beside its student, for targets that cannot be kept: hidden states and queries, keys
//! and values of all tokens are too large, and the outputs at masked tokens differ from epoch to epoch.
//!
//! It reads the student's micro-batch on a tape that does not record, without dropout. Its parameters have no
//! gradients and are never given to the optimizer.

use super::teacher::fits_student;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Model, ModelShape, Options, Outputs, encoder_shape, folder_hash, saved_outputs};
use crate::nn::{EncoderConfig, Inputs, Taps};
use crate::tape::{Tape, Var};
use crate::text::Tokenizer;
use std::path::{Path, PathBuf};

/// What a live teacher is asked for besides what is inside of its encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveHead {
    /// Nothing.
    None,
    /// The logits of masked tokens.
    Masked,
    /// The outputs of its own head, which [`Teacher::find`](super::Teacher::find) has checked.
    Own,
}

/// The folder of a live teacher, checked but not opened.
#[derive(Clone, Debug)]
pub struct LiveFolder {
    dir: PathBuf,
    /// Hash of its weights and config.
    pub hash: String,
    /// The shape of its encoder.
    pub encoder: EncoderConfig,
    /// Whether it is asked for the outputs of its head.
    pub logits: bool,
}

impl LiveFolder {
    /// Finds the teacher in a folder and checks that it reads the student's tokens: the same tokenizer, and
    /// room for sequences of `longest` tokens. For [`LiveHead::Masked`] it must be a masked language model,
    /// for [`LiveHead::None`] any encoder will do. `vectors`: the student learns vectors of texts, as
    /// sentence-transformers reads them.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a folder without such a model.
    pub fn find(
        dir: &Path,
        head: LiveHead,
        vectors: bool,
        tokenizer: &Tokenizer,
        longest: usize,
    ) -> Result<LiveFolder> {
        let encoder = encoder_shape(dir)?;
        fits_student(dir, &encoder, vectors, tokenizer, longest)?;
        if head == LiveHead::Masked {
            let saved = saved_outputs(dir)?;
            if !matches!(&saved[..], [(_, Outputs::Tokens | Outputs::Pretraining(_))]) {
                let found: Vec<String> = saved.iter().map(|(_, outputs)| format!("{outputs:?}")).collect();
                return Err(Error::model("the teacher is not a masked language model")
                    .at(dir)
                    .with_expected("a model folder with a masked language modelling head")
                    .with_found(if found.is_empty() { "no head".to_owned() } else { found.join(", ") })
                    .with_help("choose another teacher, or set distill.logits_weight = 0"));
            }
        }
        let (dir, logits) = (dir.to_path_buf(), head != LiveHead::None);
        Ok(LiveFolder { hash: folder_hash(&dir)?, dir, encoder, logits })
    }
    /// How the model is opened: with its own head, or with none.
    fn options(&self) -> Options {
        Options { outputs: (!self.logits).then_some(Outputs::Embedding), ..Options::default() }
    }
    /// Opens the teacher.
    ///
    /// # Errors
    /// Those of [`Model::open`].
    pub fn open(&self, device: &Device) -> Result<LiveTeacher> {
        Ok(LiveTeacher { model: Model::open(device, &self.dir, &self.options())?.0, logits: self.logits })
    }
    /// A teacher of the same shape with random weights, for a plan of memory.
    ///
    /// # Errors
    /// Those of [`Model::unloaded`].
    pub fn unloaded(&self, device: &Device) -> Result<LiveTeacher> {
        let options = match saved_outputs(&self.dir)?.into_iter().next() {
            Some((_, outputs)) if self.logits => Options { outputs: Some(outputs), ..self.options() },
            _ => self.options(),
        };
        let model = Model::unloaded(device, &ModelShape::of(&self.dir, &options)?, &options)?;
        Ok(LiveTeacher { model, logits: self.logits })
    }
}

/// A teacher on the device of its student.
pub struct LiveTeacher {
    model: Model,
    logits: bool,
}

impl LiveTeacher {
    /// Runs the teacher over a student's batch. What `taps` ask for is in them afterwards. Returns the
    /// first output of its head if it was opened to give that. All are constants on any tape.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn run(&self, device: &Device, inputs: &Inputs, taps: &mut Taps) -> Result<Option<Var>> {
        let mut tape = Tape::evaluate(device);
        let bound = self.model.params.bind(&mut tape, false)?;
        let inputs = Inputs { key: None, head: 0, ..inputs.clone() };
        if self.logits {
            return Ok(self.model.forward(&mut tape, &bound, &inputs, taps)?.into_iter().next());
        }
        self.model.encoder().run(&mut tape, &bound, &inputs, taps)?;
        Ok(None)
    }
}
