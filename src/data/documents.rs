//! Raw text -> windows of tokens for masked language modelling, and pairs for next-sentence prediction.

use std::path::{Path, PathBuf};

use super::encoded::TokenSet;
use super::encoding::text;
use super::read::read;
use super::record::{Columns, OnBadRow};
use super::targets::{IGNORED, Targets};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::text::{Tokenizer, Window};

/// Texts without labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// The file.
    pub path: PathBuf,
    /// The lines of each document, none of them empty.
    pub documents: Vec<Vec<String>>,
    /// BLAKE3 of the file's bytes.
    pub hash: String,
    /// Rows that were skipped because they could not be read.
    pub skipped: u64,
}

/// Reads documents: from a `.txt` file, in which an empty line ends a document (with `by_row` each line is a
/// document), or from a column of a table, in which each row is a document.
///
/// # Errors
/// Those of [`read`](super::read()); [`Kind::Data`](crate::error::Kind::Data) with the byte for a file that
/// is not UTF-8, and for one without text.
pub fn read_documents(path: &Path, column: &str, by_row: bool, on_bad: OnBadRow) -> Result<Documents> {
    let plain =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt") || e.eq_ignore_ascii_case("text"));
    let mut found = Documents { path: path.to_path_buf(), ..Documents::default() };
    if plain {
        let (content, hash) = text(path)?;
        found.hash = hash;
        let mut document = Vec::new();
        for line in content.lines().map(str::trim) {
            if !line.is_empty() {
                document.push(line.to_owned());
            }
            if (line.is_empty() || by_row) && !document.is_empty() {
                found.documents.push(std::mem::take(&mut document));
            }
        }
        found.documents.extend(Some(document).filter(|d| !d.is_empty()));
    } else {
        let columns = Columns { text: column.to_owned(), pair: None, label: None, weight: None };
        let table = read(path, &columns, on_bad)?;
        (found.hash, found.skipped) = (table.hash, table.bad_count);
        for row in table.rows {
            let lines = row.text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned);
            let lines: Vec<String> = lines.collect();
            found.documents.extend(Some(lines).filter(|l| !l.is_empty()));
        }
    }
    if found.documents.is_empty() {
        return Err(Error::data("the file holds no text")
            .at(path)
            .with_expected("at least one line that is not empty")
            .with_help("check that it is the right file, and that data.text names the right column"));
    }
    Ok(found)
}

fn push(set: &mut TokenSet, tokenizer: &Tokenizer, window: &Window) -> Result<()> {
    // A special token has a word of its own in some tokenizers.
    let word = |(word, part): (&Option<u32>, &Option<u8>)| part.and(*word).unwrap_or(IGNORED);
    set.words.extend(window.words.iter().zip(&window.part).map(word));
    set.push(&window.ids, &tokenizer.types(&window.types), 0, tokenizer.unknowns(&window.ids))
}

impl Documents {
    /// Every document in windows of at most `max_length` tokens, one after the other.
    ///
    /// # Errors
    /// Those of [`Tokenizer::windows`].
    pub fn windows(&self, tokenizer: &Tokenizer, max_length: usize) -> Result<TokenSet> {
        let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
        for document in &self.documents {
            for window in tokenizer.windows(&document.join("\n"), None, max_length, 0)? {
                push(&mut set, tokenizer, &window)?;
            }
        }
        Ok(set)
    }

    /// Builds pairs for next-sentence prediction as BERT's `create_pretraining_data.py` does. Lines of a
    /// document are collected up to the target length (in one of ten cases a random shorter one) and cut at a
    /// random line into two parts. Half of the second parts are replaced by lines of another document; the
    /// lines that were not used go back. A pair that is too long loses tokens at a random end of its longer
    /// part. The class is 0 if the second part follows the first, else 1.
    ///
    /// Unlike that script, a document of one line is only used for second parts, since no line follows it. A
    /// random second part is never from the same document.
    ///
    /// # Errors
    /// Those of the tokenizer; [`Kind::Data`](crate::error::Kind::Data) if there are fewer than two
    /// documents, or if no two lines of a document make a pair, so that every pair would be random.
    pub fn pairs(&self, tokenizer: &Tokenizer, max_length: usize, seed: u64) -> Result<TokenSet> {
        self.cut(tokenizer, max_length, seed, Second::Random)
    }

    /// Builds pairs for sentence-order prediction as ALBERT's `create_pretraining_data.py` does: the two
    /// parts are cut as in [`Documents::pairs`], but the second always follows the first in the document.
    /// Half of the pairs are swapped. The class is 0 if the parts are in order, else 1.
    ///
    /// Unlike that script, which takes a random second part where it has only one line, no pair is made of a
    /// single line.
    ///
    /// # Errors
    /// Those of the tokenizer; [`Kind::Data`](crate::error::Kind::Data) if no two lines of a document make a
    /// pair.
    pub fn ordered_pairs(&self, tokenizer: &Tokenizer, max_length: usize, seed: u64) -> Result<TokenSet> {
        self.cut(tokenizer, max_length, seed, Second::Swapped)
    }

    fn cut(&self, tokenizer: &Tokenizer, max_length: usize, seed: u64, second: Second) -> Result<TokenSet> {
        let special = tokenizer.special_tokens(true);
        let most = max_length.saturating_sub(special);
        if most < 2 {
            return Err(Error::usage("data.max_length is too short for a pair of sentences")
                .with_expected(format!("at least {}", special + 2))
                .with_found(max_length.to_string()));
        }
        let pieces = |lines: &Vec<String>| -> Result<Vec<Line>> {
            let lines: Result<Vec<_>> = lines.iter().map(|line| tokenizer.pieces(line)).collect();
            Ok(lines?.into_iter().filter(|l| !l.is_empty()).collect())
        };
        let documents: Vec<_> = self.documents.iter().map(pieces).collect::<Result<_>>()?;
        let documents: Vec<Vec<Line>> = documents.into_iter().filter(|d| !d.is_empty()).collect();
        let layout = "put each sentence on its own line and an empty line between documents; in a table each row is a \
                      document and each of its lines a sentence";
        if second == Second::Random && documents.len() < 2 {
            return Err(Error::data("there are fewer than two documents")
                .at(&self.path)
                .with_expected("two documents: a random second sentence comes from another document")
                .with_found(documents.len().to_string())
                .with_help(layout));
        }
        if documents.iter().all(|d| d.len() < 2) {
            return Err(Error::data("no document has two sentences, so no sentence follows another")
                .at(&self.path)
                .with_expected("a document of two lines or more")
                .with_found(format!("{} documents of one line", documents.len()))
                .with_help(layout));
        }
        let (mut set, mut classes) = (TokenSet { offsets: vec![0], ..TokenSet::default() }, Vec::new());
        let mut rng = Rng::new(seed, "pairs", 0);
        let mut neighbours = 0;
        for (index, document) in documents.iter().enumerate().filter(|(_, d)| d.len() > 1) {
            let mut target = target_length(&mut rng, most);
            let (mut chunk, mut length, mut i): (Vec<&Line>, _, _) = (Vec::new(), 0, 0);
            while i < document.len() {
                chunk.push(&document[i]);
                length += document[i].len();
                if i + 1 == document.len() || length >= target {
                    let end = if chunk.len() >= 2 { 1 + below(&mut rng, chunk.len() - 1) } else { 1 };
                    neighbours += usize::from(chunk.len() > 1);
                    let follows = second == Second::Swapped && chunk.len() > 1;
                    let swapped = follows && rng.uniform() < 0.5;
                    let random = second == Second::Random && (chunk.len() == 1 || rng.uniform() < 0.5);
                    let (head, tail) = chunk.split_at(end);
                    let (head, tail) = if swapped { (tail, head) } else { (head, tail) };
                    let mut first: Vec<(u32, u32)> = numbered(head, 0);
                    let mut other = Vec::new();
                    if random {
                        let wanted = target.saturating_sub(first.len()).max(1);
                        let taken = elsewhere(&mut rng, &documents, index, wanted);
                        other = numbered(&taken, first.len() as u32);
                        // What was not used goes back.
                        i -= chunk.len() - end;
                    } else if chunk.len() > 1 {
                        other = numbered(tail, first.len() as u32);
                    }
                    if !other.is_empty() {
                        shorten(&mut rng, &mut first, &mut other, most);
                        push(&mut set, tokenizer, &tokenizer.joined(&first, &other)?)?;
                        classes.push(u32::from(random || swapped));
                    }
                    (chunk, length) = (Vec::new(), 0);
                    target = target_length(&mut rng, most);
                }
                i += 1;
            }
        }
        if neighbours == 0 {
            return Err(Error::data("every sentence is too long to share a pair with the next one")
                .at(&self.path)
                .with_found(format!("data.max_length = {max_length}"))
                .with_help("raise data.max_length, or write shorter sentences"));
        }
        set.targets = Targets::Class(classes);
        Ok(set)
    }
}

/// What the second part of half of the pairs is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// Lines of another document, for next-sentence prediction.
    Random,
    /// The first part, for sentence-order prediction.
    Swapped,
}

/// The tokens of a line, each with the number of its word.
type Line = Vec<(u32, u32)>;

/// Lines of a random document other than that of this index, from a random line on, until they have the
/// wanted number of tokens.
fn elsewhere<'d>(rng: &mut Rng, documents: &'d [Vec<Line>], index: usize, wanted: usize) -> Vec<&'d Line> {
    let mut other = below(rng, documents.len());
    while other == index {
        other = below(rng, documents.len());
    }
    let lines = &documents[other];
    let start = below(rng, lines.len());
    let mut count = 0;
    let until = |line: &&Line| {
        let more = count < wanted;
        count += line.len();
        more
    };
    lines[start..].iter().take_while(until).collect()
}

fn below(rng: &mut Rng, n: usize) -> usize {
    rng.below(n as u32) as usize
}

/// All of the room, or in one of ten a random part of it.
fn target_length(rng: &mut Rng, most: usize) -> usize {
    if rng.uniform() < 0.1 { 2 + rng.below(most as u32 - 1) as usize } else { most }
}

/// Lines end to end, with words numbered on from `first`.
fn numbered(lines: &[&Line], first: u32) -> Vec<(u32, u32)> {
    let mut all: Vec<(u32, u32)> = Vec::new();
    let mut base = first;
    for line in lines {
        all.extend(line.iter().map(|&(id, word)| (id, base + word)));
        base = all.last().map_or(base, |last| last.1 + 1);
    }
    all
}

fn shorten(rng: &mut Rng, a: &mut Vec<(u32, u32)>, b: &mut Vec<(u32, u32)>, most: usize) {
    while a.len() + b.len() > most {
        let longer = if a.len() > b.len() { &mut *a } else { &mut *b };
        if rng.uniform() < 0.5 {
            longer.remove(0);
        } else {
            longer.pop();
        }
    }
}
