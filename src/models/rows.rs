//! Maps the rows of a saved head's last layer (one row per class) to the rows of a new head.

use super::Outputs;
use super::heads::{self, NamedHead};
use std::collections::HashSet;

/// Where the rows of a head's last layer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowSource {
    /// Every row stays where it is.
    Same,
    /// Row `i` is row `[i]` of the saved head.
    Reordered(Vec<usize>),
    /// No row can be used, so the layer starts from random values; the reason, for the user.
    New(String),
}

/// The heads that a folder was saved with, and the heads to build.
pub(super) struct HeadRows<'a> {
    /// The saved heads by name, from `config.json`; `None` if it does not describe them.
    pub saved: Option<Vec<(String, Outputs)>>,
    /// The heads of the model being opened.
    pub wanted: &'a [NamedHead],
}

impl HeadRows<'_> {
    /// The rows for a parameter whose tensor in the files is `tensor`.
    pub fn of(&self, parameter: &str, tensor: &str) -> RowSource {
        let stem = parameter.rsplit_once('.').map_or(parameter, |(stem, _)| stem);
        let Some(head) = self.wanted.iter().find(|h| h.last_layer.as_deref() == Some(stem)) else {
            return RowSource::Same;
        };
        let name = heads::owner(tensor).unwrap_or("");
        match self.saved.iter().flatten().find(|(saved, _)| saved == name) {
            Some((_, saved)) => carried(saved, &head.outputs),
            None => RowSource::New("config.json does not say which class each of its rows is for".into()),
        }
    }
}

/// The rows of a head saved for `saved` that a head for `wanted` can use.
fn carried(saved: &Outputs, wanted: &Outputs) -> RowSource {
    if saved == wanted {
        return RowSource::Same;
    }
    let (old, new) = match (saved, wanted) {
        (Outputs::Classes(a), Outputs::Classes(b))
        | (Outputs::Labels(a), Outputs::Labels(b))
        | (Outputs::Tags(a), Outputs::Tags(b)) => (numbered(a), numbered(b)),
        _ => {
            return RowSource::New(format!(
                "the saved head is for {}, and this task needs one for {}",
                described(saved),
                described(wanted)
            ));
        }
    };
    let unique = |names: &[String]| names.iter().collect::<HashSet<_>>().len() == names.len();
    let places: Option<Vec<usize>> = new.iter().map(|n| old.iter().position(|o| o == n)).collect();
    match places.filter(|_| old.len() == new.len() && unique(&new)) {
        Some(places) if places.iter().enumerate().all(|(i, &p)| i == p) => RowSource::Same,
        Some(places) => RowSource::Reordered(places),
        None => {
            let what =
                format!("the saved head is for {}, and the data has {}", described(saved), described(wanted));
            let fewer = new.len() < old.len() && new.iter().all(|n| old.contains(n));
            let remedy =
                if fewer { "; to keep the saved head, list all its names in data.classes" } else { "" };
            RowSource::New(what + remedy)
        }
    }
}

/// The names unchanged, except that transformers' default names `LABEL_0`, `LABEL_1`, ... become `0`, `1`,
/// ....
pub fn numbered(names: &[String]) -> Vec<String> {
    let default = names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"));
    if default { (0..names.len()).map(|i| i.to_string()).collect() } else { names.to_vec() }
}

/// A description of a head's outputs for a message.
fn described(outputs: &Outputs) -> String {
    const SHOWN: usize = 12;
    let list = |what: &str, names: &[String]| {
        let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = if names.len() > SHOWN { ", ..." } else { "" };
        format!("the {} {what} {shown}{more}", names.len())
    };
    match outputs {
        Outputs::Classes(names) => list("classes", names),
        Outputs::Labels(names) => list("independent labels", names),
        Outputs::Tags(names) => list("tags", names),
        Outputs::Number => "one number".into(),
        Outputs::Span => "the start and end of an answer".into(),
        Outputs::Embedding => "a vector".into(),
        Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining(_) => "tokens of the vocabulary".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn rows_follow_the_names() {
        let classes = |names: &[&str]| Outputs::Classes(of(names));
        let go = |a: &[&str], b: &[&str]| carried(&classes(a), &classes(b));
        assert_eq!(go(&["a", "b"], &["a", "b"]), RowSource::Same);
        assert_eq!(go(&["a", "b", "c"], &["c", "a", "b"]), RowSource::Reordered(vec![2, 0, 1]));
        // A default name stands for its number; a number that is a name is just a name.
        assert_eq!(go(&["LABEL_0", "LABEL_1"], &["0", "1"]), RowSource::Same);
        assert_eq!(go(&["LABEL_0", "LABEL_1"], &["1", "0"]), RowSource::Reordered(vec![1, 0]));
        assert_eq!(go(&["1", "0"], &["0", "1"]), RowSource::Reordered(vec![1, 0]));
        let new = |rows: RowSource, words: &[&str]| match rows {
            RowSource::New(why) => words.iter().for_each(|w| assert!(why.contains(w), "{why}")),
            other => panic!("{other:?}"),
        };
        new(go(&["LABEL_0", "LABEL_1"], &["neg", "pos"]), &["LABEL_0, LABEL_1", "neg, pos"]);
        new(go(&["a", "b"], &["a", "b", "c"]), &["the 2 classes a, b", "the 3 classes a, b, c"]);
        new(go(&["a", "b", "c"], &["a", "b"]), &["the 3 classes", "the 2 classes", "data.classes"]);
        new(go(&["Neg", "pos"], &["neg", "pos"]), &["Neg", "neg"]);
        new(go(&["a", "a"], &["a", "a", "b"]), &["a, a"]);
        new(carried(&classes(&["a", "b"]), &Outputs::Labels(of(&["a", "b"]))), &["classes", "independent"]);
        new(carried(&Outputs::Number, &classes(&["a"])), &["one number"]);
    }
}
