//! Inference: a model folder is opened as a [`Session`], which turns a stream of rows, sentences or questions
//! into a stream of results. Nothing here prints or parses a command line.
//!
//! | the model was trained for | call | result |
//! |---|---|---|
//! | classify, multilabel, regress, similar, mask, permute, next | [`Session::predict`] | [`Prediction`] |
//! | tag | [`Session::tags`] | [`SentenceTags`] |
//! | answer | [`Session::answers`] | [`Answered`] |
//! | any, for the vectors of texts | [`Folder::for_vectors`], [`Session::embed`] | [`TextVector`] |
//! | any, to score it on labelled data | [`Session::labelled`], [`Session::score`] | [`Meter`](crate::tasks::Meter) |

mod chunked;
mod fill;
mod labelled;
mod session;
mod spans;
mod table;
mod vectors;

pub use fill::{Fill, Filled};
pub use session::{Folder, Session, Settings, tokenizer, vector_tokenizer};
pub use spans::{Answered, SentenceTags};
pub use table::{Predicted, Prediction};
pub use vectors::TextVector;
