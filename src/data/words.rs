//! Sentences of words -> windows of tokens with one prediction for each word: for tagging.

use std::sync::Arc;

use super::encoded::{Origin, TokenSet};
use super::tagged::TaggedText;
use super::targets::{IGNORED, Targets};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// The sentences of words that the windows of a token set were cut from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Number of words of each sentence.
    pub lengths: Vec<u32>,
    /// The tag of each word of each sentence, as a class number; empty where there are none.
    pub tags: Vec<Vec<u32>>,
    /// For each sentence the labels of spans that begin or end inside a word; no prediction can match them.
    pub missed: Vec<Vec<String>>,
    /// The sentence of each window.
    pub sentence: Vec<u32>,
    /// For each window the words that it predicts: (token within the window, word). A word is predicted in
    /// the window in which it has the most context on both sides, from its first token (Devlin et al. 2019,
    /// sec. 5.3). A word without tokens is in no window.
    pub heads: Vec<Vec<(u32, u32)>>,
}

impl Words {
    /// The windows of sentences, as [`Words::build`] makes them; `tags` as numbers, with the spans that no
    /// words equal.
    ///
    /// # Errors
    /// Those of [`Words::build`].
    pub fn of_sentences(
        tokenizer: &Tokenizer,
        sentences: Vec<TaggedText>,
        tags: Option<Vec<Vec<u32>>>,
        max_length: usize,
        stride: usize,
    ) -> Result<TokenSet> {
        let (words, missed): (Vec<_>, Vec<_>) =
            sentences.into_iter().map(|s| (s.sentence.words, s.missed)).unzip();
        let mut set = Self::build(tokenizer, &words, tags, max_length, stride)?;
        if let Origin::Words(words) = &mut set.origin {
            Arc::make_mut(words).missed = missed;
        }
        Ok(set)
    }

    /// Cuts sentences into windows of at most `max_length` tokens that share `stride` tokens. With `tags`,
    /// the first token of a word has its tag, and the loss skips all other tokens.
    ///
    /// # Errors
    /// Those of [`Tokenizer::word_windows`]; [`Kind::Usage`](crate::error::Kind::Usage) if there are not as
    /// many tags as words.
    pub fn build(
        tokenizer: &Tokenizer,
        sentences: &[Vec<String>],
        tags: Option<Vec<Vec<u32>>>,
        max_length: usize,
        stride: usize,
    ) -> Result<TokenSet> {
        let tags = tags.unwrap_or_default();
        let fits = |(words, tags): (&Vec<String>, &Vec<u32>)| words.len() == tags.len();
        let all_fit = tags.len() == sentences.len() && sentences.iter().zip(&tags).all(fits);
        if !(tags.is_empty() || all_fit) {
            return Err(Error::usage("the number of tags is not the number of words")
                .with_expected("one tag for each word"));
        }
        let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
        let (mut all, mut targets) = (Words::default(), Vec::new());
        for (i, words) in sentences.iter().enumerate() {
            all.lengths.push(words.len() as u32);
            let windows = tokenizer.word_windows(words, max_length, stride)?;
            // The window with most context of each word, and its first token there.
            let mut best: Vec<Option<(u32, usize, u32)>> = vec![None; words.len()];
            for (w, window) in windows.iter().enumerate() {
                let mut before = None;
                for (t, word) in window.words.iter().enumerate() {
                    let first = word.is_some() && *word != before;
                    before = *word;
                    let (Some(word), true) = (word, first) else { continue };
                    let context = t.min(window.len() - 1 - t) as u32;
                    let Some(slot) = best.get_mut(*word as usize) else { continue };
                    if slot.is_none_or(|(c, ..)| context > c) {
                        *slot = Some((context, w, t as u32));
                    }
                }
            }
            let first = all.heads.len();
            all.heads.resize(first + windows.len(), Vec::new());
            for (word, best) in best.into_iter().enumerate() {
                if let Some((_, w, t)) = best {
                    all.heads[first + w].push((t, word as u32));
                }
            }
            for (w, window) in windows.into_iter().enumerate() {
                let start = set.ids.len();
                all.sentence.push(i as u32);
                set.push(&window.ids, &tokenizer.types(&window.types), 0, tokenizer.unknowns(&window.ids))?;
                if let Some(tags) = tags.get(i) {
                    targets.resize(set.ids.len(), IGNORED);
                    for &(t, word) in &all.heads[first + w] {
                        targets[start + t as usize] = tags[word as usize];
                    }
                }
            }
        }
        if !tags.is_empty() {
            set.targets = Targets::Tags(targets);
        }
        all.tags = tags;
        set.origin = Origin::Words(Arc::new(all));
        Ok(set)
    }
}
