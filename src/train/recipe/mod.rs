//! The recipe: everything a training run is told, in one TOML (or JSON) file with visible defaults.
//!
//! Each key is declared once below, with its type, default, bounds and meaning; reading, writing, help and
//! documentation walk that table. A recipe is resolved before anything runs: every mistake in it is reported
//! at once, with line and column, and [`Recipe::to_toml`] writes it with every default, reading back as the
//! same recipe.

#[macro_use]
mod table;
#[macro_use]
mod field;
mod check;
mod distill;
mod effect;
mod optim;
mod prune;
mod source;

pub use distill::{Distillation, HiddenLoss, LayerMap, Preset};
pub use field::{Attention, ClassWeights, DeviceName, Every, OnBadRow, Pooling, Precision, Sampling};
pub use prune::Prune;
pub use table::Key;

use super::schedule::{Curve, ScheduleKind};
pub use crate::data::LabelColumns;
use crate::error::{Error, Kind, Result};
use crate::ops::UPDATE_RULES;
use crate::ops::update::UpdateRule;
pub use crate::tasks::{PairLoss, TagScheme, TaskKind};
use field::{Rule, above, above_up_to, at_least, from_to, from_to_below};
use source::Entry;
use std::path::{Path, PathBuf};
use table::{Item, Reader, Section, comment, item};

section! {
    /// A training run.
    Recipe "" {
        /// What to learn.
        task: TaskKind = TaskKind::Classify, Rule::Required;
        /// Random seed of the whole run (HF `seed`): initial weights of a new head, order of examples,
        /// dropout.
        seed: u64 = 42, Rule::Any;
        /// Train one run for each of these seeds instead of one run with `seed`. An empty list trains one
        /// run.
        seeds: Vec<u64> = Vec::new(), Rule::Any;
        /// Device to compute on. "auto" uses the CPU, "cuda" an NVIDIA GPU ("cuda:1" the second one), "wgpu"
        /// a GPU through Vulkan, Metal or DX12.
        device: DeviceName = DeviceName::Auto, Rule::Any;
        /// Data type of activations and matrix multiplications. "f32" works everywhere. "bf16" works on the
        /// CPU and on CUDA from Ampere GPUs on. "f16" uses dynamic loss scaling; it works on the CPU and on
        /// CUDA, and for the matrix multiplications alone on a wgpu adapter with cooperative matrices. Sums,
        /// weights and optimizer moments are always f32.
        precision: Precision = Precision::F32, Rule::Any;
        /// CPU threads; 0 uses all cores.
        threads: usize = 0, from_to(0.0, 4096.0);
        /// Run folder (HF `output_dir`), relative to the current folder. Default: runs/ and the name of the
        /// recipe file.
        output: PathBuf = PathBuf::from("runs/run"), Rule::Derived;
    } with {
        /// Which pretrained model.
        model: Model,
        /// Which examples.
        data: Data,
        /// How long, in what portions, and what is kept.
        train: Train,
        /// How a gradient becomes a step.
        optim: Optim,
        /// What is minimised.
        loss: Loss,
        /// Which weights are masked.
        prune: Prune,
        /// Any number of classes a row.
        multilabel: Multilabel,
        /// Numbers.
        regress: Regress,
        /// Tags of words.
        tag: Tag,
        /// Answers to questions.
        answer: Answer,
        /// Masked language modelling.
        mask: Mask,
        /// Permutation language modelling.
        permute: Permute,
        /// Vectors of texts.
        similar: Similar,
        /// Several tasks on one encoder.
        multi: Multi,
        /// Learning from a larger model.
        distill: Distillation,
    }
}

section! {
    /// `[model]`: which pretrained model, and what is changed about it.
    Model "model" {
        /// Model folder in the Hugging Face layout, relative to the recipe, or org/name of a model in the
        /// local cache (HF `model_name_or_path`).
        path: String = String::new(), Rule::Required;
        /// How the token vectors become one vector: "auto" as in pretraining, "cls" the first token, "mean"
        /// the mean of all tokens.
        pooling: Pooling = Pooling::Auto, Rule::Any;
        /// Layers of the folder that make the encoder, counted from 0, in this order. Default: all.
        layers: Option<Vec<usize>> = None, Rule::Any;
        /// Attention: "auto" as the model was trained, "exact" softmax attention, or "performer", the FAVOR+
        /// approximation. Its time and memory grow linearly with the length, not quadratically.
        attention: Attention = Attention::Auto, Rule::Any;
        /// Random features of each head with attention = "performer". Default: d ln d, where d is the width
        /// of a head.
        attention_features: Option<usize> = None, from_to(1.0, 65536.0);
        /// Optimizer steps between two draws of the random features with attention = "performer"; 0 never
        /// redraws them.
        attention_redraw: u64 = 1000, Rule::Any;
        /// Dropout of hidden states (HF `hidden_dropout_prob`). Default: the value in the model's
        /// config.json.
        dropout: Option<f32> = None, from_to_below(0.0, 1.0);
        /// Dropout of attention weights (HF `attention_probs_dropout_prob`). Default: the value in the
        /// model's config.json.
        attention_dropout: Option<f32> = None, from_to_below(0.0, 1.0);
        /// Dropout before the head (HF `classifier_dropout`). Default: the value in the model's config.json.
        classifier_dropout: Option<f32> = None, from_to_below(0.0, 1.0);
        /// Prefixes of parameter names. Parameters with such a prefix are not trained.
        freeze: Vec<String> = Vec::new(), Rule::Any;
    }
}

section! {
    /// `[data]`: the files, their columns, and how text becomes tokens.
    Data "data" {
        /// File of training examples (HF `train_file`), relative to the recipe; for "classify" also a folder
        /// with a subfolder of .txt files for each class. In every path ~/ and ${NAME} are replaced from the
        /// environment; a path given by --set is relative to the current folder.
        train: PathBuf = PathBuf::new(), Rule::Required;
        /// File or folder of validation examples (HF `validation_file`); left out: a share of the training
        /// file.
        validation: Option<PathBuf> = None, Rule::Any;
        /// File or folder of test examples (HF `test_file`), scored once at the end; left out: a share of the
        /// training file.
        test: Option<PathBuf> = None, Rule::Any;
        /// Column of the text.
        text: String = "text".to_owned(), Rule::Any;
        /// Column of the second text of a pair; left out: there is none.
        pair: Option<String> = None, Rule::Any;
        /// Column of the class or number. "multilabel" also takes a list of columns, one for each class, that
        /// hold 0 or 1. For "tag" the key of the tags or spans in JSON, and "upos", "xpos" or "deprel" in
        /// CoNLL-U. "similar" with a contrastive loss needs no label; if there is one, every row must be
        /// labelled 1 or true, and "" says that the column means something else.
        label: LabelColumns = LabelColumns::One("label".to_owned()), Rule::Any;
        /// Column of the weight of each row in the loss (scikit-learn's `sample_weight`), a number of at
        /// least 0, in the training file alone; for "classify", "multilabel" and "regress". The loss is the
        /// weighted mean over the rows of an optimizer step. Rows of weight 0 are left out. Scores count
        /// every row once. Left out: all rows weigh the same.
        weight: Option<String> = None, Rule::Any;
        /// What stands between the classes of a row where it may have several.
        separator: String = ",".to_owned(), Rule::Any;
        /// Names of the classes in the order of the head's outputs; an empty list takes them from the
        /// training file.
        classes: Vec<String> = Vec::new(), Rule::Any;
        /// Share of the training file that validates where no validation file is given.
        validation_fraction: f64 = 0.1, from_to_below(0.0, 1.0);
        /// Share of the training file that tests where no test file is given.
        test_fraction: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Seed of that split; apart from `seed`, so that runs of several seeds share it.
        split_seed: u64 = 0, Rule::Any;
        /// Longest sequence, in tokens with the special ones; longer ones are cut (HF `max_seq_length`).
        max_length: usize = 128, at_least(3.0);
        /// Tokens that neighbouring windows share where a text is longer than max_length and is cut in
        /// windows (HF `doc_stride`).
        stride: usize = 32, at_least(0.0);
        /// What a row that cannot be read does: "stop" the run, or "skip" it and count it.
        on_bad_row: OnBadRow = OnBadRow::Stop, Rule::Any;
        /// Whether tokenized data, and the outputs of a teacher, are kept on disk for the next run.
        cache: bool = true, Rule::Any;
    }
}

section! {
    /// `[train]`: length of the run, batches, validation and checkpoints.
    Train "train" {
        /// Passes over the training data (HF `num_train_epochs`).
        epochs: f64 = 3.0, above(0.0);
        /// Number of optimizer steps, which replaces `epochs` (HF `max_steps`). Default: as many as `epochs`
        /// gives.
        max_steps: Option<u64> = None, at_least(1.0);
        /// Sequences per optimizer step (HF `per_device_train_batch_size` times
        /// `gradient_accumulation_steps`).
        batch_size: usize = 16, at_least(1.0);
        /// Tokens per optimizer step, which replaces `batch_size`. Default: `batch_size` counts.
        batch_tokens: Option<usize> = None, at_least(1.0);
        /// Least number of forward passes per optimizer step (HF `gradient_accumulation_steps`). It does not
        /// change the result.
        accumulation: usize = 1, at_least(1.0);
        /// Largest number of tokens in one forward pass. Larger batches are split into several passes with
        /// the same result.
        max_tokens: usize = 8192, at_least(1.0);
        /// Whether to put sequences of similar length into the same batch (HF `group_by_length`).
        group_by_length: bool = false, Rule::Any;
        /// When to validate: "epoch", or every so many optimizer steps (HF `eval_steps`).
        eval_every: Every = Every::Epoch, at_least(1.0);
        /// When to write a checkpoint: "epoch", or every so many optimizer steps (HF `save_steps`).
        save_every: Every = Every::Epoch, at_least(1.0);
        /// How many of the newest checkpoints to keep (HF `save_total_limit`). The best checkpoint is kept as
        /// well. At least two are kept, also with 1: if the newest is damaged, the run resumes from the one
        /// before it.
        keep_checkpoints: usize = 2, at_least(1.0);
        /// Stop after this many validations in a row without improvement (HF `early_stopping_patience`).
        /// Default: never.
        early_stopping: Option<u64> = None, at_least(1.0);
        /// Metric that selects the best checkpoint (HF `metric_for_best_model`). `tempra help metrics` lists
        /// them with their direction. With task "multi": "mean" or TASK_METRIC. The default depends on the
        /// task.
        best_metric: String = "accuracy".to_owned(), Rule::Derived;
        /// Whether the final model is the best checkpoint instead of the last (HF `load_best_model_at_end`).
        /// Default: true if there are validation examples.
        load_best: bool = true, Rule::Derived;
        /// How many steps in a row may have a NaN or infinite loss or gradient. Such a step is skipped; one
        /// more ends the run. 0 ends the run at the first.
        max_nonfinite_steps: u64 = 10, Rule::Any;
        /// Optimizer steps between two lines of the log (HF `logging_steps`).
        log_every: u64 = 10, at_least(1.0);
    }
}

section! {
    /// `[optim]`: the optimizer, clipping and the learning-rate schedule.
    Optim "optim" {
        /// Optimizer (HF `optim`). The default of `lr` is for AdamW: sgd usually needs a much higher rate,
        /// lion a lower one.
        optimizer: &'static UpdateRule = &UPDATE_RULES[0], Rule::Any;
        /// Peak learning rate (HF `learning_rate`).
        lr: f64 = 5e-5, above(0.0);
        /// Weight decay (HF `weight_decay`): decoupled with adamw and lion, L2 regularisation with sgd, as in
        /// PyTorch. It does not apply to biases and normalization layers.
        weight_decay: f64 = 0.0, at_least(0.0);
        /// Decay rate of AdamW's first moment (HF `adam_beta1`). With lion, the weight of the momentum in the
        /// direction of a step.
        beta1: Option<f64> = None, from_to_below(0.0, 1.0);
        /// Decay rate of AdamW's second moment (HF `adam_beta2`), or of lion's momentum.
        beta2: Option<f64> = None, from_to_below(0.0, 1.0);
        /// Added to the square root of the second moment (HF `adam_epsilon`).
        eps: Option<f64> = None, above(0.0);
        /// Factor on the momentum buffer (PyTorch `momentum`); 0 means no momentum, and no memory for it.
        momentum: Option<f64> = None, from_to_below(0.0, 1.0);
        /// Whether the momentum is Nesterov's (PyTorch `nesterov`); it needs a momentum above 0.
        nesterov: Option<bool> = None, Rule::Any;
        /// Clip the gradient of all parameters together to this L2 norm (HF `max_grad_norm`); 0 does not
        /// clip.
        max_grad_norm: f64 = 1.0, at_least(0.0);
        /// Learning-rate schedule after the warm-up (HF `lr_scheduler_type`).
        schedule: ScheduleKind = ScheduleKind::Linear, Rule::Any;
        /// Share of the steps in which the learning rate rises from 0 to its peak, rounded up (HF
        /// `warmup_ratio`).
        warmup_ratio: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Number of these steps, which replaces `warmup_ratio` (HF `warmup_steps`).
        warmup_steps: Option<u64> = None, at_least(0.0);
        /// Number of waves of the schedules cosine, cosine_with_restarts and warmup_stable_decay (HF
        /// `num_cycles`). Default: 0.5; 1 with restarts.
        num_cycles: Option<f64> = None, above(0.0);
        /// Exponent of the schedule polynomial (HF `power`).
        power: f64 = 1.0, above(0.0);
        /// Last learning rate of the schedule polynomial (HF `lr_end`).
        lr_end: f64 = 1e-7, at_least(0.0);
        /// Timescale of the schedule inverse_sqrt in steps (HF `timescale`). Default: the warm-up steps, or
        /// 10000 without a warm-up.
        timescale: Option<u64> = None, at_least(1.0);
        /// Steps of the final decay of the schedule warmup_stable_decay (HF `num_decay_steps`). Default: a
        /// tenth of all steps, rounded up.
        decay_steps: Option<u64> = None, at_least(1.0);
        /// Lowest learning rate of the schedules cosine and warmup_stable_decay, as a share of the peak (HF
        /// `min_lr_rate`, `min_lr_ratio`).
        min_lr_ratio: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Curve of the warm-up of the schedule warmup_stable_decay (HF `warmup_type`).
        warmup_type: Curve = Curve::Linear, Rule::Any;
        /// Curve of the decay of the schedule warmup_stable_decay (HF `decay_type`).
        decay_type: Curve = Curve::Cosine, Rule::Any;
        /// Factor on the learning rate from each layer to the layer below it. With 1 all layers have the same
        /// rate.
        layer_lr_decay: f64 = 1.0, above_up_to(0.0, 1.0);
    }
}

section! {
    /// `[loss]`: what is minimised.
    Loss "loss" {
        /// Share of the target probability that is spread over all classes (HF `label_smoothing_factor`);
        /// with multilabel, over yes and no.
        label_smoothing: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Weight of each class in the loss, in the order of the classes, or "balanced" (classify only):
        /// inversely proportional to how often a class occurs. Default: all classes weigh the same.
        class_weights: Option<ClassWeights> = None, at_least(0.0);
        /// Exponent of the focal loss (Lin et al. 2017): each target weighs (1 - its probability) to this
        /// power. The paper uses 2; 0 is plain cross-entropy.
        focal_gamma: f64 = 0.0, from_to(0.0, 100.0);
        /// Factor on the divergence of R-Drop (Liang et al. 2021): each pass runs the model twice with
        /// different dropout masks, and the loss is the mean of both plus this factor times the symmetric KL
        /// divergence of their predictions. It takes twice the time and activation memory. For classify and
        /// tag; 1 is a common value, 0 turns it off.
        r_drop: f64 = 0.0, at_least(0.0);
    }
}

section! {
    /// `[multilabel]`: when a class is predicted.
    Multilabel "multilabel" {
        /// Whether to tune a probability threshold for each class at the end of the run: the one with the
        /// best F1 on the validation examples. The thresholds are saved with the model. Otherwise a class is
        /// predicted above 0.5.
        tune_thresholds: bool = true, Rule::Any;
    }
}

section! {
    /// `[regress]`: how numbers are learnt.
    Regress "regress" {
        /// Whether to train on standardized targets: minus the mean of the training targets, divided by their
        /// standard deviation. The loss is in these units; predictions, other scores and the model folder are
        /// in original units.
        standardize: bool = true, Rule::Any;
    }
}

section! {
    /// `[tag]`: what tags mean.
    Tag "tag" {
        /// Tagging scheme. "auto" finds out from the tags of all files whether they are "iob1", "iob2",
        /// "iobes", "bilou" or "none", and whether the letter comes first (B-PER) or last (PER-B). "none" is
        /// for tags that do not mark spans, such as parts of speech; they are scored word by word. A file
        /// that breaks the scheme is refused with the line. The scheme is saved with the model.
        scheme: TagScheme = TagScheme::Auto, Rule::Any;
        /// Whether predicted tags that break the scheme count as no entity (seqeval's mode="strict").
        /// Otherwise they are repaired as by the CoNLL evaluation script.
        strict: bool = false, Rule::Any;
    }
}

section! {
    /// `[answer]`: how answers are found.
    Answer "answer" {
        /// Number of best starts and ends to combine, and of answers to keep for each question (HF
        /// `n_best_size`).
        n_best: usize = 20, from_to(1.0, 1000.0);
        /// Longest answer in tokens (HF `max_answer_length`).
        max_length: usize = 30, at_least(1.0);
        /// How much the score of "no answer" must exceed that of the best answer to be chosen (HF
        /// `null_score_diff_threshold`).
        null_threshold: f64 = 0.0, Rule::Any;
    }
}

section! {
    /// `[mask]`: which tokens a masked language model is to find.
    Mask "mask" {
        /// Share of the tokens that are masked (HF `mlm_probability`).
        probability: f64 = 0.15, above_up_to(0.0, 0.9);
        /// Whether to mask whole words instead of single tokens.
        whole_word: bool = false, Rule::Any;
        /// Whether each row of the file is an example. Otherwise the rows are joined and cut into pieces of
        /// data.max_length tokens.
        by_row: bool = false, Rule::Any;
    }
}

section! {
    /// `[permute]`: which tokens a permutation language model (Yang et al. 2019) is to find, in a random
    /// order.
    Permute "permute" {
        /// Share of the tokens to predict, approximately (HF `plm_probability`, rounded as in transformers:
        /// nearly all from 0.7 on). Default: one sixth.
        probability: Option<f64> = None, above_up_to(0.0, 0.9);
        /// Longest run of neighbouring tokens that is predicted together (HF `max_span_length`).
        max_span: u64 = 5, from_to(1.0, 1000.0);
        /// Whether each row of the file is an example. Otherwise the rows are joined and cut into pieces of
        /// data.max_length tokens.
        by_row: bool = false, Rule::Any;
    }
}

section! {
    /// `[similar]`: what makes two texts alike.
    Similar "similar" {
        /// Loss. "cosine" trains the cosine similarity of the two texts towards the label. "contrastive"
        /// needs no label: each text shall be nearer to its partner than to the partners of the other texts
        /// in the optimizer step (InfoNCE, van den Oord et al. 2018). Pairs that share a text are not
        /// compared.
        loss: PairLoss = PairLoss::Cosine, Rule::Any;
        /// Temperature of the contrastive loss: similarities are divided by it.
        temperature: f64 = 0.05, from_to(1e-4, 1e4);
        /// Label that means "identical" with the cosine loss, such as 5 for STS-B. Labels are divided by it,
        /// and must then be between -1 and 1.
        label_scale: f64 = 1.0, above(0.0);
    }
}

section! {
    /// `[multi]`: several tasks on one encoder.
    Multi "multi" {
        /// Recipe files of the tasks, relative to this recipe. Of each, only `task`, `data`, `loss`,
        /// `train.best_metric` and the section of the task count. A task has the name of its file without the
        /// extension.
        recipes: Vec<String> = Vec::new(), Rule::Any;
        /// How the task of each step is chosen: in proportion to the size of its data, to a root of that
        /// size, or in turn.
        sampling: Sampling = Sampling::Proportional, Rule::Any;
        /// Degree of the root with sampling = "temperature"; 1 is proportional.
        temperature: f64 = 2.0, at_least(1.0);
        /// Factor on the loss of each task, in the order of `recipes`. An empty list means 1 for all.
        weights: Vec<f32> = Vec::new(), at_least(0.0);
    }
}

/// Keys that cannot change the result of a run, so that a run may be resumed with other values.
const NOT_HASHED: &[&str] = &["output", "device", "threads"];

impl Recipe {
    /// Reads a recipe, JSON if its name ends in .json, with `--set` flags (`section.key`, value) on top of
    /// it.
    ///
    /// # Errors
    /// [`Kind::Usage`] with every mistake in it.
    pub fn load(path: &Path, sets: &[(String, String)]) -> Result<Self> {
        Ok(Self::load_with_warnings(path, sets)?.0)
    }
    /// As [`Recipe::load`], with a warning for each key that is set and has no effect.
    ///
    /// # Errors
    /// [`Kind::Usage`] with every mistake in it.
    pub fn load_with_warnings(path: &Path, sets: &[(String, String)]) -> Result<(Self, Vec<Error>)> {
        Self::open(path, sets, None)
    }
    /// A recipe that stands in `multi.recipes` of another, with warnings for keys that have no effect there.
    pub(super) fn load_part(path: &Path, top: &Recipe) -> Result<(Self, Vec<Error>)> {
        Self::open(path, &[], Some(top))
    }
    fn open(path: &Path, sets: &[(String, String)], top: Option<&Recipe>) -> Result<(Self, Vec<Error>)> {
        let bytes = std::fs::read(path).map_err(|e| {
            let hint = "name a recipe file that exists; `tempra init` writes one, `tempra help recipe` lists the keys";
            Error::io(Kind::Usage, "the recipe cannot be read", path, &e).with_help(hint)
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|b| **b == b'\n').count() as u64 + 1;
            let e =
                Error::usage("the recipe is not UTF-8").at(path).with_line(line).with_byte(good.len() as u64);
            e.with_help("save it as UTF-8")
        })?;
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let text = text.trim_start_matches('\u{feff}');
        let tree = if json { source::json_tree(text, path) } else { source::toml_tree(text, path) };
        Self::resolved(tree?, text, path, sets, top)
    }
    /// Reads a recipe from TOML text; `path` is what errors name and paths are relative to. Every mistake is
    /// reported.
    ///
    /// # Errors
    /// [`Kind::Usage`] with every mistake in it.
    ///
    /// ```
    /// use std::path::Path;
    /// use tempra::train::Recipe;
    ///
    /// let text = "task = \"classify\"\n[model]\npath = \"model\"\n[data]\ntrain = \"reviews.csv\"\n";
    /// let set = [("optim.lr".to_owned(), "3e-5".to_owned())];
    /// let recipe = Recipe::from_toml(text, Path::new("jobs/recipe.toml"), &set)?;
    /// assert_eq!(recipe.optim.lr, 3e-5);
    /// assert!(recipe.data.train.ends_with("jobs/reviews.csv"));
    /// // A mistake is an error that names its line and the nearest key.
    /// let e = Recipe::from_toml(&text.replace("train =", "trian ="), Path::new("r.toml"), &[]).unwrap_err();
    /// assert!(e.to_string().contains("trian"));
    /// # Ok::<(), tempra::error::Error>(())
    /// ```
    pub fn from_toml(text: &str, path: &Path, sets: &[(String, String)]) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        Ok(Self::resolved(source::toml_tree(text, path)?, text, path, sets, None)?.0)
    }
    /// Reads a recipe from JSON text: the same keys; null leaves a key out.
    ///
    /// # Errors
    /// [`Kind::Usage`] with every mistake in it.
    pub fn from_json(text: &str, path: &Path, sets: &[(String, String)]) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        Ok(Self::resolved(source::json_tree(text, path)?, text, path, sets, None)?.0)
    }
    fn resolved(
        mut root: Vec<Entry>,
        text: &str,
        path: &Path,
        sets: &[(String, String)],
        top: Option<&Recipe>,
    ) -> Result<(Self, Vec<Error>)> {
        sets.iter().for_each(|(name, value)| table::set(&mut root, name, value));
        let keys = Self::keys();
        let mut reader = Reader::new(text, path, keys.clone());
        let mut recipe = Self::read(root, &mut reader);
        // Of several tasks each has data of its own.
        let needs =
            |key: &Key| key.required && !(recipe.task == TaskKind::Multi && key.path() == "data.train");
        for key in keys.iter().filter(|k| needs(k)) {
            reader.need(key);
        }
        check::resolve(&mut recipe, &mut reader, path);
        check::check(&recipe, &mut reader);
        let mut warnings = effect::warnings(&recipe, &reader, top.is_some());
        warnings.extend(top.and_then(|top| effect::overruled(&recipe, &reader.all_given(), top, path)));
        reader.finish().map_or(Ok((recipe, warnings)), Err)
    }
    /// Every key in declared order, for help and documentation.
    pub fn keys() -> Vec<Key> {
        let mut keys = Vec::new();
        Self::default().walk(&mut |item| keys.push(item.key));
        keys
    }
    /// The resolved recipe with every default, as TOML that reads back as the same recipe; with `comments`
    /// every key is explained, and keys that are not set are shown commented out.
    pub fn to_toml(&self, comments: bool) -> String {
        let mut out = String::new();
        let mut section = "";
        self.walk(&mut |Item { key, value }| {
            if key.section != section {
                section = key.section;
                out += &format!("\n[{section}]\n");
            }
            if comments {
                out += &comment(&key.doc);
            }
            match value {
                Some(value) => {
                    out += &format!("{} = {value}", key.name);
                    match key.default {
                        Some(default) if comments && default != value => {
                            out += &format!("  # default: {default}\n")
                        }
                        _ => out.push('\n'),
                    }
                }
                None if comments => out += &format!("# {} =\n", key.name),
                None => {}
            }
        });
        out
    }
    /// The resolved recipe as JSON, with the same keys as [`to_toml`](Self::to_toml).
    pub fn to_json(&self) -> serde_json::Value {
        toml::from_str(&self.to_toml(false)).unwrap_or_default()
    }
    /// BLAKE3 of the resolved recipe without what cannot change its result: output, device and threads. In
    /// hex.
    pub fn hash(&self) -> String {
        let Self { output, device, threads, .. } = Self::default();
        let same = Self { output, device, threads, ..self.clone() };
        // Runs with the default optimizer were started before there were others, and can still be resumed.
        let default = format!("\noptimizer = \"{}\"\n", UPDATE_RULES[0].name);
        let text = distill::hashed(&same, prune::hashed(&same, same.to_toml(false)));
        let text = text.replacen(&default, "\n", 1);
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
    /// The keys in which it differs from an `earlier` recipe, among those that can change the result of a
    /// run: "optim.lr = 5e-5, earlier 3e-5".
    pub fn differences(&self, earlier: &Self) -> Vec<String> {
        let values = |recipe: &Self| {
            let mut all = Vec::new();
            recipe.walk(&mut |Item { key, value }| all.push((key.path(), value)));
            all
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
        let both = values(self).into_iter().zip(values(earlier));
        let changed = both.filter(|((key, new), (_, old))| new != old && !NOT_HASHED.contains(&key.as_str()));
        changed
            .map(|((key, new), (_, old))| format!("{key} = {}, earlier {}", shown(new), shown(old)))
            .collect()
    }
    /// The runs it asks for: itself, or one for each of `seeds` in a folder seed-N below `output`.
    pub fn runs(&self) -> Vec<Self> {
        let one = |seed: &u64| {
            let output = self.output.join(format!("seed-{seed}"));
            Self { seed: *seed, seeds: Vec::new(), output, ..self.clone() }
        };
        if self.seeds.is_empty() { vec![self.clone()] } else { self.seeds.iter().map(one).collect() }
    }
}

impl Data {
    /// Whether there are validation examples, from a file or a share of the training file.
    pub fn validates(&self) -> bool {
        self.validation.is_some() || self.validation_fraction > 0.0
    }
}
