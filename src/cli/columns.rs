//! The columns of text, pair and label, by the options and by the names in the header.

use super::options::text;
use crate::data::Columns;
use clap::ArgMatches;

/// Names of the two texts of a pair, in data sets that are widely used; written as [`plain`] writes them.
pub const PAIRS: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("s1", "s2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("q1", "q2"),
    ("claim", "evidence"),
    ("anchor", "positive"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "document"),
    ("query", "passage"),
    ("query", "positive"),
    ("text", "textpair"),
    ("text", "pair"),
];
/// Names of a text, the likeliest first.
const TEXTS: &[&str] = &[
    "text",
    "sentence",
    "content",
    "review",
    "reviewtext",
    "comment",
    "commenttext",
    "tweet",
    "message",
    "body",
    "utterance",
    "document",
    "question",
    "query",
    "abstract",
    "description",
    "headline",
    "title",
];
/// Names of a label, the likeliest first.
const LABELS: &[&str] = &[
    "label",
    "labels",
    "class",
    "target",
    "score",
    "category",
    "labeltext",
    "goldlabel",
    "sentiment",
    "intent",
    "topic",
    "emotion",
    "stance",
    "rating",
    "stars",
    "similarity",
    "similarityscore",
    "relatedness",
    "relatednessscore",
    "isduplicate",
    "entailment",
    "y",
];

/// The columns, and how each was found: for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectedColumns {
    /// The columns.
    pub columns: Columns,
    /// `text`, `pair` and `label` with the reason for each.
    pub why: Vec<(&'static str, String)>,
}

/// The columns that `--text`, `--pair` and `--label` name (an empty name means none), else those with usual
/// names. Without either, the text is `text` and there is no label.
pub fn by_name(matches: &ArgMatches, header: &[String]) -> DetectedColumns {
    by_name_among(matches, header, |_| true)
}

/// As [`by_name`]; a text must also be a column that `is_text` accepts, unless an option names it.
pub fn by_name_among(
    matches: &ArgMatches,
    header: &[String],
    is_text: impl Fn(&str) -> bool,
) -> DetectedColumns {
    let given = |id| text(matches, id).map(str::to_owned);
    let (option, named) = ("named by an option", "by its name");
    let mut why = Vec::new();

    let prose = |name: &str| known(header, name).filter(|found| is_text(found));
    let pair_of = |first: &str, second: &str| Some((prose(first)?, prose(second)?));
    let pairs = || PAIRS.iter().filter_map(|&(a, b)| pair_of(a, b));
    let (one, how) = match given("text").filter(|s| !s.is_empty()) {
        Some(given) => (given, option),
        None => {
            let text = pairs().map(|(first, _)| first).next();
            let text = text.or_else(|| TEXTS.iter().find_map(|name| prose(name)));
            text.map_or_else(|| ("text".to_owned(), "the default"), |text| (text, named))
        }
    };
    why.push(("text", how.to_owned()));
    let pair = match given("pair") {
        Some(given) => Some((given, option)).filter(|(given, _)| !given.is_empty()),
        None => pairs().find(|(first, _)| *first == one).map(|(_, second)| (second, named)),
    };
    let label = match given("label") {
        Some(given) => Some((given, option)).filter(|(given, _)| !given.is_empty()),
        None => LABELS
            .iter()
            .filter_map(|name| known(header, name))
            .find(|name| *name != one && pair.as_ref().is_none_or(|(pair, _)| pair != name))
            .map(|label| (label, named)),
    };
    why.extend(pair.iter().map(|(_, how)| ("pair", (*how).to_owned())));
    why.extend(label.iter().map(|(_, how)| ("label", (*how).to_owned())));
    let columns =
        Columns { text: one, pair: pair.map(|(p, _)| p), label: label.map(|(l, _)| l), weight: None };
    DetectedColumns { columns, why }
}

/// The columns with names of labels, if several of them could be meant: a name such as `label` settles it.
pub fn label_names(header: &[String], columns: &Columns) -> Vec<String> {
    const CLEAR: &[&str] = &["label", "labels", "class", "target", "goldlabel"];
    if CLEAR.iter().any(|name| known(header, name).is_some()) {
        return Vec::new();
    }
    let used = |name: &String| *name == columns.text || Some(name) == columns.pair.as_ref();
    LABELS.iter().filter_map(|name| known(header, name)).filter(|name| !used(name)).collect()
}

/// Whether a name is one that data sets give to a text, a pair or a label.
pub fn is_known(name: &str) -> bool {
    let name = plain(name);
    let pairs = PAIRS.iter().flat_map(|(a, b)| [a, b]);
    TEXTS.iter().chain(LABELS).chain(pairs).any(|known| *known == name)
}

/// A name without case and without what joins its words.
pub fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace(['-', '_', ' '], "")
}

/// The column of that name. Case, spaces, `-` and `_` do not count.
fn known(header: &[String], name: &str) -> Option<String> {
    header.iter().find(|h| plain(h) == name).cloned()
}
