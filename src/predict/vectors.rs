//! Vectors of texts.

use super::chunked::Chunked;
use super::session::Session;
use crate::data::Row;
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::tasks::unit;

/// The vector of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVector {
    /// Its numbers, as many as [`Session::width`].
    pub values: Vec<f32>,
    /// The number of tokens that were cut off because the text is longer than the maximum length.
    pub lost: u32,
}

impl Session {
    /// The vectors of a stream of texts, in their order. The folder must be opened with
    /// [`Folder::for_vectors`](super::Folder::for_vectors), or hold a model that was trained to output
    /// vectors. The second text of a row is not read.
    ///
    /// An item is an error of kind [`Usage`](crate::error::Kind::Usage) for another model, and of kind
    /// [`Model`](crate::error::Kind::Model) for outputs that are not finite. The stream ends after an error.
    pub fn embed<R: Into<Row>>(
        &self,
        texts: impl IntoIterator<Item = R>,
    ) -> impl Iterator<Item = Result<TextVector>> {
        let rows = texts.into_iter().map(|row| Ok(Row { pair: None, ..row.into() }));
        Chunked::new(rows, self.settings().chunk, |rows: Vec<Row>, first| {
            if *self.outputs() != Outputs::Embedding {
                return Err(Error::usage("the head of the model does not output vectors")
                    .at(&self.folder.dir)
                    .with_help("open the folder with Folder::for_vectors, which uses the encoder alone"));
            }
            let set = self.tokens(&rows, Vec::new())?;
            let mut vectors = vec![Vec::new(); set.len()];
            self.run(&self.batches(&set)?, first, |batch, outputs| {
                let all = outputs.first().map(Vec::as_slice).unwrap_or_default();
                let width = all.len() / batch.len().max(1);
                for (row, &example) in all.chunks_exact(width.max(1)).zip(&batch.examples) {
                    if let Some(slot) = vectors.get_mut(example as usize) {
                        *slot = if self.normalizes() { unit(row) } else { row.to_vec() };
                    }
                }
                Ok(())
            })?;
            Ok(vectors.into_iter().zip(set.lost).map(|(values, lost)| TextVector { values, lost }).collect())
        })
    }
}
