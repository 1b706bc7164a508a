//! Files -> rows -> tokens -> packed batches. No device here.
//!
//! [`read`] turns a CSV, TSV, JSON, JSON Lines or Parquet file or a folder of text files into a [`Table`];
//! [`Target`] turns its labels into classes or values; [`split`] cuts one table in several; [`TokenSet`]
//! holds the tokens; [`epoch`], [`micro_batches`] and [`eval_batches`] pack them; [`check`] reports what a
//! person should know before training.

mod batch;
mod check;
mod class_folders;
mod columns;
mod conll;
mod contexts;
mod documents;
mod encoded;
mod encoding;
mod examples;
mod format;
mod json_array;
mod jsonl;
mod labels;
mod lines;
// Parquet is left out by `--no-default-features`; its stand-in says so.
#[cfg_attr(not(feature = "parquet"), path = "parquet_absent.rs")]
mod parquet;
mod pick;
mod read;
mod record;
mod report;
mod separated;
mod sheet;
mod spans;
mod split;
mod squad;
mod tag_format;
mod tagged;
mod tags;
mod targets;
mod weights;
mod words;

pub use batch::{Batch, BatchOptions, BatchSize, epoch, eval_batches, micro_batches};
pub use check::check;
pub use columns::LabelColumns;
pub use conll::{Sentence, TagColumns, check_last_column, read_sentences};
pub use contexts::{ContextWindow, Contexts};
pub use documents::{Documents, read_documents};
pub use encoded::{Cache, Origin, TokenSet};
pub use examples::Examples;
pub use format::Format;
pub use labels::{Label, Target, check_partners, check_sets, check_similarities, class_sets, sets};
pub use read::{
    Places, Records, Table, columns, label_columns, read, read_texts, read_with_indicators,
    read_with_optional_label, read_with_sets,
};
pub use record::{BadRow, Columns, OnBadRow, Row};
pub use report::{Conflict, FileReport, Leak, Lengths, Report, Typo};
pub use sheet::Sheet;
pub use spans::{SpanText, TextSpan, read_spans, words};
pub use split::split;
pub use squad::{Answer, Question, read_questions};
pub use tag_format::TagFormat;
pub use tagged::{TagRule, TagSource, TaggedText, read_tagged, tag_numbers};
pub use tags::{Affix, BrokenTag, Scheme, Span, spans};
pub use targets::{IGNORED, Targets};
pub use weights::WeightSummary;
pub use words::Words;
