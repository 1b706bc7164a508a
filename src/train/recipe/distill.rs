//! `[distill]`: learning from a larger model.

use super::field::{Field, Rule, above, above_up_to, at_least};
use super::source::{Entry, Value};
use super::table::{Item, Reader, Section, item, without};
use super::{PairLoss, Recipe, TaskKind};
use crate::tasks::{DataKind, TASKS, TaskEntry};

section! {
    /// `[distill]`: learning from a larger model, the teacher.
    Distillation "distill" {
        /// Model folder of the teacher, or org/name of a model in the local cache, with the same tokenizer
        /// files. For its outputs it is trained for the same task, with the same classes. They are computed
        /// once for the training examples, without dropout, and kept on disk if `data.cache` is true. For
        /// task "mask", and for hidden states, embeddings and relations, the teacher runs beside the student.
        /// Not for tasks "permute" and "multi". Default: none; where another key of `[distill]` is given and
        /// the model is pruned, `model.path`: it learns from its dense self.
        teacher: Option<String> = None, Rule::Any;
        /// Sets keys that the recipe does not give to those of a paper: "logits" (Hinton et al. 2015),
        /// "distilbert" (Sanh et al. 2019; task "mask"), "minilm" (MiniLM-v2, Wang et al. 2021), "tinybert"
        /// (the first of the two runs of Jiao et al. 2020). Default: none.
        preset: Option<Preset> = None, Rule::Any;
        /// Share of the teacher's logits in the loss; the loss of the labels has the rest. With 1 the labels
        /// do not count. `label_weight` and `logits_weight` replace it.
        weight: f64 = 0.5, above_up_to(0.0, 1.0);
        /// Temperature that the logits of teacher and student are divided by. The teacher's part is
        /// multiplied by its square. Not for tasks "regress" and "similar".
        temperature: f64 = 2.0, above(0.0);
        /// Factor on the loss of the labels. Default: 1 - `weight`.
        label_weight: Option<f64> = None, at_least(0.0);
        /// Factor on the loss of the teacher's logits. Default: `weight`.
        logits_weight: Option<f64> = None, at_least(0.0);
        /// Whether the teacher's logits are computed anew in every step, by a teacher that runs beside the
        /// student, instead of once before training; for tasks "classify", "tag" and "mask". Default: true
        /// with task "mask", else false.
        live: Option<bool> = None, Rule::Any;
        /// Factor on the distance of hidden states; 0 turns it off. Default: 0.
        hidden_weight: Option<f64> = None, at_least(0.0);
        /// Which layers' hidden states are compared: "all", each layer of the student with one of the teacher
        /// (with n and m layers, layer i with layer (i + 1) m / n - 1, rounded down), "last", the last ones,
        /// or a list of pairs [layer of the student, layer of the teacher], counted from 0. Default: "all".
        hidden_layers: Option<LayerMap> = None, Rule::Any;
        /// Distance of hidden states, and of embeddings: "mse", the mean square of the differences, or
        /// "cosine", 1 minus the cosine of the angle. Default: "mse".
        hidden_loss: Option<HiddenLoss> = None, Rule::Any;
        /// Whether a linear map, which is trained too, takes the student's hidden states and embeddings to
        /// the teacher's width. It is not in the model folder. Default: where the widths differ.
        projection: Option<bool> = None, Rule::Any;
        /// Factor on the distance of the embeddings, the input of the first layer; 0 turns it off. Default:
        /// 0.
        embedding_weight: Option<f64> = None, at_least(0.0);
        /// Factor on the divergence of self-attention relations (MiniLM-v2): of queries with queries, keys
        /// with keys and values with values; 0 turns it off. Default: 0.
        relation_weight: Option<f64> = None, at_least(0.0);
        /// Number of relation heads, which divides the widths of teacher and student. Default: 48, or the
        /// largest number below that divides both.
        relation_heads: Option<usize> = None, at_least(1.0);
        /// Layer of the teacher whose relations the student's last layer learns, counted from 0. Default: the
        /// last one.
        relation_layer: Option<usize> = None, Rule::Any;
    }
}

choice! {
    /// The settings of a paper.
    Preset {
        /// The labels, and the teacher's logits.
        Logits = "logits",
        /// DistilBERT: logits, masked tokens, and the cosine of the last hidden states.
        DistilBert = "distilbert",
        /// MiniLM-v2: relations alone.
        MiniLm = "minilm",
        /// TinyBERT's first run: hidden states, embeddings and relations.
        TinyBert = "tinybert",
    }
}
choice! {
    /// How far hidden states are from each other.
    HiddenLoss {
        /// The mean square of the differences.
        Mse = "mse",
        /// 1 minus the cosine.
        Cosine = "cosine",
    }
}

/// Which layers' hidden states are compared.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerMap {
    /// Each layer of the student with one of the teacher.
    All,
    /// The last layers.
    Last,
    /// These: a layer of the student, a layer of the teacher.
    Pairs(Vec<[usize; 2]>),
}

impl Field for LayerMap {
    fn kind() -> String {
        "\"all\", \"last\" or a list of pairs such as [[0, 1], [1, 3]]".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(s) if s == "all" => Ok(Self::All),
            Value::Text(s) if s == "last" => Ok(Self::Last),
            Value::List(_) => {
                let lists = Vec::<Vec<usize>>::read(value)?;
                let pairs = lists.iter().enumerate().map(|(i, pair)| {
                    let two = <[usize; 2]>::try_from(&pair[..]);
                    two.map_err(|_| format!("{} numbers as item {}", pair.len(), i + 1))
                });
                let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
                if pairs.is_empty() { Err("an empty list".to_owned()) } else { Ok(Self::Pairs(pairs)) }
            }
            _ => Err(value.describe()),
        }
    }
    fn write(&self) -> Option<String> {
        let pairs = |pairs: &Vec<[usize; 2]>| pairs.iter().map(|pair| pair.to_vec()).collect::<Vec<_>>();
        match self {
            Self::All => Some("\"all\"".to_owned()),
            Self::Last => Some("\"last\"".to_owned()),
            Self::Pairs(list) => pairs(list).write(),
        }
    }
}

impl Distillation {
    /// The factor on the loss of the labels.
    pub fn labels(&self) -> f64 {
        self.label_weight.unwrap_or(1.0 - self.weight)
    }
    /// The factor on the loss of the logits.
    pub fn logits(&self) -> f64 {
        self.logits_weight.unwrap_or(self.weight)
    }
    /// The factor on the distance of hidden states.
    pub fn hidden(&self) -> f64 {
        self.hidden_weight.unwrap_or(0.0)
    }
    /// The factor on the distance of the embeddings.
    pub fn embedding(&self) -> f64 {
        self.embedding_weight.unwrap_or(0.0)
    }
    /// The factor on the divergence of relations.
    pub fn relation(&self) -> f64 {
        self.relation_weight.unwrap_or(0.0)
    }
    /// Whether the teacher is asked for what is inside of it.
    fn inside(&self) -> bool {
        self.hidden() > 0.0 || self.embedding() > 0.0 || self.relation() > 0.0
    }
    /// Whether a loss trains the head.
    fn trains_head(&self) -> bool {
        self.labels() > 0.0 || self.logits() > 0.0
    }
}

impl Recipe {
    /// Whether the teacher is asked for logits while the student trains. Masked tokens differ from epoch to
    /// epoch.
    pub fn has_live_logits(&self) -> bool {
        let d = &self.distill;
        let live = self.task == TaskKind::Mask || d.live == Some(true);
        live && d.teacher.is_some() && d.logits() > 0.0
    }
    /// Whether the teacher runs beside the student.
    pub fn has_live_teacher(&self) -> bool {
        self.distill.teacher.is_some() && (self.distill.inside() || self.has_live_logits())
    }
    /// Whether a loss trains the model's head.
    pub fn trains_head(&self) -> bool {
        self.distill.teacher.is_none() || self.distill.trains_head()
    }
}

/// Gives keys that a preset sets their values where the recipe does not.
pub(super) fn resolve(recipe: &mut Recipe, r: &Reader<'_>) {
    let d = &mut recipe.distill;
    let no_logits = |d: &mut Distillation| {
        d.label_weight.get_or_insert(0.0);
        d.logits_weight.get_or_insert(0.0);
    };
    match d.preset {
        None | Some(Preset::Logits) => {}
        // The weights of the authors' README.
        Some(Preset::DistilBert) => {
            d.label_weight.get_or_insert(2.0);
            d.logits_weight.get_or_insert(5.0);
            d.hidden_weight.get_or_insert(1.0);
            d.hidden_layers.get_or_insert(LayerMap::Last);
            d.hidden_loss.get_or_insert(HiddenLoss::Cosine);
            d.projection.get_or_insert(false);
            if r.given("distill.temperature").is_none() {
                d.temperature = 2.0;
            }
        }
        Some(Preset::MiniLm) => {
            no_logits(d);
            d.relation_weight.get_or_insert(1.0);
        }
        Some(Preset::TinyBert) => {
            no_logits(d);
            d.hidden_weight.get_or_insert(1.0);
            d.hidden_layers.get_or_insert(LayerMap::All);
            d.hidden_loss.get_or_insert(HiddenLoss::Mse);
            d.embedding_weight.get_or_insert(1.0);
            d.relation_weight.get_or_insert(1.0);
            d.projection.get_or_insert(true);
        }
    }
}

/// Whether a task's inputs, or those that its pairs are classified by, are the same in every epoch, so that a
/// teacher's outputs can be kept.
fn distils(task: &TaskEntry) -> bool {
    match &task.data {
        DataKind::Rows | DataKind::Sentences | DataKind::Questions => true,
        DataKind::Documents(language) => language.pair.is_some(),
        DataKind::Recipes => false,
    }
}

/// Complains about what does not go with a teacher.
pub(super) fn check(recipe: &Recipe, r: &mut Reader<'_>) {
    let d = &recipe.distill;
    if d.teacher.is_none() {
        if d.preset.is_some() {
            r.complain(&["distill.preset"], "distill.preset is set, but distill.teacher is not", |e| {
                e.with_help("name the teacher's model folder in distill.teacher")
            });
        }
        return;
    }
    let task = recipe.task.name();
    if d.logits() > 0.0 && recipe.task != TaskKind::Mask && !distils(recipe.task.entry()) {
        let what = match d.inside() {
            true => format!("the logits of task \"{task}\" cannot be distilled"),
            false => format!("distill.teacher is set, but task \"{task}\" cannot be distilled"),
        };
        let help = if d.inside() { "set distill.logits_weight = 0" } else { "remove [distill]" };
        r.complain(&["distill.logits_weight", "distill.teacher", "task"], &what, |e| {
            let all = TASKS.iter().map(|(_, entry)| entry);
            let all = all.filter(|entry| entry.name == TaskKind::Mask.name() || distils(entry));
            let names: Vec<String> = all.map(|entry| format!("{:?}", entry.name)).collect();
            e.with_expected(format!("one of the tasks {}", names.join(", "))).with_help(help)
        });
    }
    let wrong = match recipe.task {
        TaskKind::Mask => Some(false),
        TaskKind::Classify | TaskKind::Tag => None,
        _ => Some(true),
    };
    if d.live.is_some() && d.live == wrong {
        let what = format!("distill.live does not work with task \"{task}\"");
        r.complain(&["distill.live", "task"], &what, |e| {
            let of =
                if wrong == Some(false) { "true: other tokens are masked in every epoch" } else { "false" };
            e.with_expected(of).with_help("remove distill.live")
        });
    }
    if d.preset == Some(Preset::DistilBert) && recipe.task != TaskKind::Mask {
        r.complain(&["distill.preset", "task"], "distill.preset = \"distilbert\" works on raw text", |e| {
            let help = "set task = \"mask\"; the preset for task \"classify\" is \"logits\"";
            e.with_expected("task \"mask\"").with_found(format!("task \"{task}\"")).with_help(help)
        });
    }
    // Two streams of tokens, several heads, or a loss that compares the examples of a whole step.
    let whole_step = recipe.task == TaskKind::Similar && recipe.similar.loss == PairLoss::Contrastive;
    if d.inside() && (whole_step || matches!(recipe.task, TaskKind::Permute | TaskKind::Multi)) {
        let task = if whole_step { "similar\" with similar.loss = \"contrastive" } else { task };
        let what = format!("task \"{task}\" cannot learn from hidden states or relations of a teacher");
        r.complain(&["distill.hidden_weight", "distill.preset", "distill.teacher"], &what, |e| {
            e.with_expected("another task").with_help("remove [distill]")
        });
    }
    if !d.trains_head() && !d.inside() {
        let keys = ["distill.label_weight", "distill.logits_weight"];
        r.complain(&keys, "every loss of this run has the factor 0", |e| {
            e.with_help("raise distill.label_weight or distill.logits_weight above 0")
        });
    }
    if !d.trains_head() && recipe.train.early_stopping.is_some() {
        let what =
            "train.early_stopping is set, but no loss of this run trains the head whose outputs are scored";
        r.complain(&["train.early_stopping"], what, |e| {
            e.with_help("remove train.early_stopping, or raise distill.label_weight above 0")
        });
    }
    if recipe.loss.r_drop > 0.0 {
        r.complain(
            &["loss.r_drop", "distill.teacher"],
            "loss.r_drop and distill.teacher are both set",
            |e| e.with_expected("one of them").with_help("remove loss.r_drop, or [distill]"),
        );
    }
}

/// The text of a resolved recipe for its hash. Without a teacher it is that of a version without this
/// section, whose runs can still be resumed.
pub(super) fn hashed(recipe: &Recipe, text: String) -> String {
    if recipe.distill.teacher.is_some() { text } else { without("distill", &text) }
}
