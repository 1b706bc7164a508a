//! What a model folder says about its training, in `tempra.json`: how texts were read, and what decides on
//! its outputs.

use super::{PairLoss, Search};
use crate::checkpoint::read_json;
use crate::data::{Affix, LabelColumns, Scheme, TagFormat};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The name of the file in a model folder.
pub const METADATA: &str = "tempra.json";
/// A larger file is not read, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// The tokens that neighbouring windows share where a folder does not say; as `data.stride` of a recipe.
const STRIDE: usize = 32;

/// The content of `tempra.json`: of a model with one head the metadata of its task, else those of each head
/// by its name.
///
/// ```
/// use tempra::tasks::ModelMetadata;
///
/// let text = r#"{"task": "multi", "heads": {"stars": {"task": "regress", "max_length": 64}}}"#;
/// let all: ModelMetadata = serde_json::from_str(text)?;
/// assert_eq!(all.of_head(Some("stars"))?.max_length, Some(64));
/// // Without a name the choice is not clear.
/// assert!(all.of_head(None).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, from = "Value")]
pub enum ModelMetadata {
    /// A model with several heads.
    Several {
        /// The task of the recipe: `multi`.
        task: String,
        /// The metadata of each head's task.
        heads: BTreeMap<String, TaskMetadata>,
    },
    /// A model with one head. Boxed: it is large.
    One(Box<TaskMetadata>),
}

impl Default for ModelMetadata {
    fn default() -> Self {
        Self::One(Box::default())
    }
}

impl From<Value> for ModelMetadata {
    fn from(value: Value) -> Self {
        // A list would be read as the fields in their order.
        let object = |value: &Value| value.is_object().then(|| TaskMetadata::deserialize(value).ok())?;
        let one = |value: &Value| object(value).unwrap_or_default();
        match value.get("heads").and_then(Value::as_object) {
            Some(heads) => Self::Several {
                task: value.get("task").and_then(Value::as_str).unwrap_or_default().to_owned(),
                heads: heads.iter().map(|(name, of)| (name.clone(), one(of))).collect(),
            },
            None => Self::One(Box::new(one(&value))),
        }
    }
}

impl ModelMetadata {
    /// Reads the file of a model folder; the defaults if there is none.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if the file cannot be read or is no JSON. A single value of
    /// the wrong type is no error: it counts as missing.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(METADATA);
        if path.exists() { Ok(read_json(&path, MOST_BYTES)?.into()) } else { Ok(Self::default()) }
    }

    /// The metadata of a head; `None` is the only head.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if the model has several heads, and `name` is none of them.
    pub fn of_head(&self, name: Option<&str>) -> Result<TaskMetadata> {
        let heads = match self {
            Self::One(task) => return Ok((**task).clone()),
            Self::Several { heads, .. } => heads,
        };
        let what = match name {
            Some(name) => match heads.get(name) {
                Some(task) => return Ok(task.clone()),
                None => format!("the model has no head {name:?}"),
            },
            None => "no head is chosen, but the model has several".to_owned(),
        };
        let names = heads.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let first = heads.keys().next().map_or("NAME", String::as_str);
        Err(Error::usage(what)
            .with_expected(format!("--head with one of {names}"))
            .with_help(format!("for example: --head {first}")))
    }

    /// Whether the model has several heads.
    pub fn several(&self) -> bool {
        matches!(self, Self::Several { .. })
    }
}

/// How the task of a head was trained. Every field is optional: an older folder, or one of another program,
/// lacks some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskMetadata {
    /// The name of the task in a recipe.
    #[serde(deserialize_with = "lenient")]
    pub task: Option<String>,
    /// The longest sequence, in tokens.
    #[serde(deserialize_with = "lenient")]
    pub max_length: Option<usize>,
    /// The column of the text.
    #[serde(deserialize_with = "lenient")]
    pub text: Option<String>,
    /// The column of the second text.
    #[serde(deserialize_with = "lenient")]
    pub pair: Option<String>,
    /// The column of the label, or the 0/1 columns of the classes. An empty name: there was none.
    #[serde(deserialize_with = "lenient")]
    pub label: Option<LabelColumns>,
    /// Tokens that neighbouring windows share (tag, answer).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Whether only spans that follow the tag scheme count (tag).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// [`Search::n_best`] (answer).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub n_best: Option<usize>,
    /// [`Search::max_length`] (answer).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub max_answer_length: Option<usize>,
    /// [`Search::null_threshold`] (answer).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub null_threshold: Option<f64>,
    /// What stands between the classes of a row (multilabel with one label column).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// The loss by its name in a recipe, where it is not the default (similar).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// What similarities were divided by (similar, contrastive loss).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// What labels were divided by (similar, cosine loss).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub label_scale: Option<f64>,
    /// The tag scheme by its name; `none` for tags that mark no spans (tag).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Whether the letter of the scheme is the end of a tag (tag).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub suffix: Option<bool>,
    /// Whether training taught the model that a question may have no answer (answer).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub impossible: Option<bool>,
    /// The mean of the training targets, if they were standardized (regress).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub target_mean: Option<f64>,
    /// Their standard deviation.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub target_std: Option<f64>,
    /// The probability above which each class is predicted, by its name (multilabel).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<BTreeMap<String, f64>>,
}

/// Reads a value; the default if it has another type.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).unwrap_or_default())
}

/// A name that is not empty.
fn named(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

impl TaskMetadata {
    /// The column of the text, if it has a name.
    pub fn text_column(&self) -> Option<&str> {
        named(&self.text)
    }
    /// The column of the second text, if there was one.
    pub fn pair_column(&self) -> Option<&str> {
        named(&self.pair)
    }
    /// The column of the label, if there was exactly one.
    pub fn label_column(&self) -> Option<&str> {
        self.label.as_ref().map(LabelColumns::as_str).filter(|name| !name.is_empty())
    }
    /// The 0/1 columns of the classes, if each class had a column; then there is no other label.
    pub fn indicators(&self) -> &[String] {
        self.label.as_ref().map_or(&[], LabelColumns::several)
    }
    /// The longest sequence in tokens, if it is one.
    pub fn longest(&self) -> Option<usize> {
        self.max_length.filter(|n| *n > 0)
    }
    /// The tokens that neighbouring windows share, 32 by default.
    pub fn window_stride(&self) -> usize {
        self.stride.unwrap_or(STRIDE)
    }
    /// The separator of the classes of a row, a comma by default.
    pub fn class_separator(&self) -> &str {
        named(&self.separator).unwrap_or(",")
    }
    /// The probability above which each of these classes is predicted; `None` unless every class has one.
    pub fn thresholds_of(&self, classes: &[String]) -> Option<Vec<f64>> {
        let all = self.thresholds.as_ref()?;
        classes.iter().map(|class| all.get(class).copied()).collect()
    }
    /// Whether it was trained on pairs that belong together, without labels.
    pub fn contrastive(&self) -> bool {
        self.loss.as_deref() == Some(PairLoss::Contrastive.name())
    }
    /// Scores pairs by their labels divided by `label_scale` from now on, whatever the loss was.
    pub fn compare_with_labels(&mut self, label_scale: f64) {
        self.loss = Some(PairLoss::Cosine.name().to_owned());
        self.label_scale = Some(label_scale);
    }
    /// Whether training taught that a question may have no answer; `None` if the folder does not say.
    pub fn abstains(&self) -> Option<bool> {
        // Old folders record only a threshold, and only for questions without an answer.
        self.impossible.or(self.null_threshold.filter(|t| *t != 0.0).map(|_| true))
    }
    /// The settings of the search for answers; `impossible`: whether "no answer" may be given.
    pub fn search(&self, impossible: bool) -> Search {
        let default = Search::default();
        Search {
            n_best: self.n_best.unwrap_or(default.n_best),
            max_length: self.max_answer_length.unwrap_or(default.max_length),
            impossible,
            null_threshold: self.null_threshold.unwrap_or(default.null_threshold),
        }
    }
    /// Notes how the tags of a tagger are written.
    pub fn set_tag_format(&mut self, format: TagFormat) {
        self.scheme = Some(format.name().to_owned());
        self.suffix = Some(matches!(format, TagFormat::Spans { affix: Affix::Suffix, .. }));
    }
    /// How the tags are written; `None` if the folder does not say, or names no scheme that tempra knows.
    pub fn tag_format(&self) -> Option<TagFormat> {
        let affix = if self.suffix == Some(true) { Affix::Suffix } else { Affix::Prefix };
        match self.scheme.as_deref()? {
            "none" => Some(TagFormat::Words),
            name => Scheme::find(name).map(|scheme| TagFormat::Spans { scheme, affix }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A value of the wrong type counts as missing, beside values that are right.
    #[test]
    fn a_wrong_value_is_a_missing_value() {
        let all = json!({ "max_length": "long", "text": 7, "label": ["a", "b"], "stride": 5, "thresholds": { "a": "high" } });
        let task = ModelMetadata::from(all).of_head(None).unwrap();
        assert_eq!((task.max_length, &task.text, &task.thresholds), (None, &None, &None));
        assert_eq!((task.indicators().len(), task.window_stride()), (2, 5));
        assert_eq!(task.label_column(), None);
        assert_eq!(ModelMetadata::from(json!([1, 2])), ModelMetadata::default());
    }

    /// What is missing is not written, but for the columns, which are always named.
    #[test]
    fn only_what_a_task_has_is_written() {
        let task = TaskMetadata {
            task: Some("tag".to_owned()),
            max_length: Some(9),
            text: Some("words".to_owned()),
            label: Some(LabelColumns::One("tags".to_owned())),
            strict: Some(false),
            ..TaskMetadata::default()
        };
        let written = json!({ "task": "tag", "max_length": 9, "text": "words", "pair": null, "label": "tags", "strict": false });
        assert_eq!(serde_json::to_value(&task).unwrap(), written);
        let all = ModelMetadata::Several { task: "multi".to_owned(), heads: [("a".to_owned(), task)].into() };
        let nested = json!({ "task": "multi", "heads": { "a": written } });
        assert_eq!(serde_json::to_value(&all).unwrap(), nested);
        assert_eq!(ModelMetadata::from(nested), all);
    }

    /// A scheme of a later version is unknown, not "none".
    #[test]
    fn an_unknown_scheme_is_no_format() {
        let of = |scheme: &str| {
            TaskMetadata { scheme: Some(scheme.to_owned()), ..TaskMetadata::default() }.tag_format()
        };
        assert_eq!(of("none"), Some(TagFormat::Words));
        assert_eq!(of("later"), None);
        assert!(matches!(of("iob2"), Some(TagFormat::Spans { affix: Affix::Prefix, .. })));
    }
}
