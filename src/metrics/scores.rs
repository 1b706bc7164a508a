//! An ordered list of named scores, and how it is written.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt;

/// Named scores in the order they were pushed. In JSON an object; NaN and the infinities, which JSON cannot
/// say, become the strings "NaN", "Infinity" and "-Infinity" and are read back as such, so that a broken
/// score is never hidden.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(Vec<(String, f64)>);

impl Scores {
    /// No scores yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Puts a score at the end, or in the place of the one of that name.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }
    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }
    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }
    /// The scores of one of several tasks: those whose names begin with its own and `_`, without that.
    pub fn of_task(&self, task: &str) -> Scores {
        let own = |(name, value): (&str, f64)| {
            Some((name.strip_prefix(task)?.strip_prefix('_')?.to_owned(), value))
        };
        self.iter().filter_map(own).collect()
    }
    /// As the object that serialising gives.
    pub fn to_json(&self) -> Value {
        let value = |v: f64| word(v).map_or_else(|| v.into(), Value::from);
        self.iter().map(|(name, v)| (name.to_owned(), value(v))).collect()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `accuracy 0.9120  loss 0.2710`: one line for a terminal.
impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name} {value:.4}", if i == 0 { "" } else { "  " })?;
        }
        Ok(())
    }
}

impl<S: Into<String>> FromIterator<(S, f64)> for Scores {
    fn from_iter<I: IntoIterator<Item = (S, f64)>>(pairs: I) -> Self {
        let mut scores = Self::new();
        pairs.into_iter().for_each(|(name, value)| scores.set(name, value));
        scores
    }
}

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.iter() {
            match word(value) {
                Some(word) => map.serialize_entry(name, word)?,
                None => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}

fn word(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Number(f64),
            Word(String),
        }
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Scores;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scores, A::Error> {
                let mut scores = Scores::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let value = match value {
                        Value::Number(v) => v,
                        Value::Word(w) => match w.as_str() {
                            "NaN" => f64::NAN,
                            "Infinity" => f64::INFINITY,
                            "-Infinity" => f64::NEG_INFINITY,
                            _ => {
                                let e = format!("the score {name} is {w:?}, which is not a number");
                                return Err(serde::de::Error::custom(e));
                            }
                        },
                    };
                    scores.set(name, value);
                }
                Ok(scores)
            }
        }
        d.deserialize_map(Pairs)
    }
}
