//! Questions with their contexts -> windows of tokens, and where the answer stands in each: for extractive
//! answering.

use std::ops::Range;
use std::sync::Arc;

use super::encoded::{Origin, TokenSet};
use super::squad::Question;
use super::targets::Targets;
use crate::error::Result;
use crate::text::{Tokenizer, Window};

/// The questions and contexts that the windows of a token set were cut from: each window holds a question and
/// a part of its context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    /// The questions.
    pub questions: Vec<Question>,
    /// The window of each example of the set.
    pub windows: Vec<ContextWindow>,
}

/// A part of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextWindow {
    /// Index of the question.
    pub question: u32,
    /// The token that means "no answer": the classification token.
    pub cls: u32,
    /// The tokens of the context, within the window.
    pub tokens: Range<u32>,
    /// Start and end of each of them in bytes of the context.
    pub offsets: Vec<(u32, u32)>,
}

impl Contexts {
    /// Cuts each context into windows of at most `max_length` tokens with the question in front. Neighbouring
    /// windows share `stride` tokens. With `labelled`, a window that holds the whole first answer is labelled
    /// with it, and every other window with "no answer", as `transformers` trains question answering.
    ///
    /// # Errors
    /// Those of [`Tokenizer::windows`].
    pub fn build(
        tokenizer: &Tokenizer,
        questions: Vec<Question>,
        max_length: usize,
        stride: usize,
        labelled: bool,
    ) -> Result<TokenSet> {
        let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
        let (mut all, mut spans) = (Contexts::default(), Vec::new());
        for (i, question) in questions.iter().enumerate() {
            // White space before a question only costs tokens.
            let text = question.question.trim_start();
            for window in tokenizer.windows(text, Some(&question.context), max_length, stride)? {
                let place = place(tokenizer, &window, i as u32);
                if labelled {
                    let answer = question.answers.first().filter(|_| !question.impossible);
                    let bytes = answer.map(|a| a.byte as u32..(a.byte + a.text.len()) as u32);
                    spans.push(bytes.and_then(|b| place.span(b)).unwrap_or([place.cls; 2]));
                }
                set.push(&window.ids, &tokenizer.types(&window.types), 0, tokenizer.unknowns(&window.ids))?;
                all.windows.push(place);
            }
        }
        if labelled {
            set.targets = Targets::Spans(spans);
        }
        all.questions = questions;
        set.origin = Origin::Contexts(Arc::new(all));
        Ok(set)
    }
}

fn place(tokenizer: &Tokenizer, window: &Window, question: u32) -> ContextWindow {
    let of_context = |part: &Option<u8>| *part == Some(1);
    let first = window.part.iter().position(of_context).unwrap_or(0);
    let count = window.part.iter().filter(|p| of_context(p)).count();
    ContextWindow {
        question,
        cls: tokenizer.cls_in(&window.ids) as u32,
        tokens: first as u32..(first + count) as u32,
        offsets: window.offsets.get(first..first + count).unwrap_or_default().to_vec(),
    }
}

impl ContextWindow {
    /// The first and the last token of a stretch of the context, if it lies in this window from end to end.
    fn span(&self, bytes: Range<u32>) -> Option<[u32; 2]> {
        let (first, last) = (self.offsets.first()?, self.offsets.last()?);
        if bytes.is_empty() || first.0 > bytes.start || last.1 < bytes.end {
            return None;
        }
        let start = self.offsets.partition_point(|o| o.0 <= bytes.start).checked_sub(1)?;
        let end = self.offsets.partition_point(|o| o.1 < bytes.end);
        (start <= end).then_some([self.tokens.start + start as u32, self.tokens.start + end as u32])
    }
}
