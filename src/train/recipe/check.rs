//! What is resolved from other keys, and what two keys cannot say together.

use super::field::{Attention, Field, expanded};
use super::source::Origin;
use super::table::{Item, Reader, Section};
use super::{ClassWeights, LabelColumns, Optim, PairLoss, Recipe, TagScheme, TaskKind};
use crate::metrics::METRICS;
use crate::ops::UPDATE_RULES;
use crate::suggest::nearest;
use crate::tasks;
use crate::train::schedule::ScheduleKind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Fills in the defaults that depend on other keys, and makes the paths of files independent of the current
/// folder.
pub(super) fn resolve(recipe: &mut Recipe, reader: &mut Reader<'_>, path: &Path) {
    if reader.given("output").is_none() {
        recipe.output = Path::new("runs").join(path.file_stem().unwrap_or("run".as_ref()));
    }
    super::distill::resolve(recipe, reader);
    if reader.given("train.best_metric").is_none() {
        recipe.train.best_metric = best_metric(recipe).to_owned();
    }
    if reader.given("train.load_best").is_none() {
        recipe.train.load_best = load_best(recipe);
    }
    recipe.optim.resolve();
    let base = path.parent().unwrap_or(Path::new(""));
    let Recipe { data, .. } = recipe;
    let files = [("data.validation", &mut data.validation), ("data.test", &mut data.test)];
    let files = files.into_iter().filter_map(|(key, file)| Some((key, file.as_mut()?)));
    for (key, file) in files.chain([("data.train", &mut data.train)]) {
        if let Some(at) = reader.given(key).filter(|_| !file.as_os_str().is_empty()) {
            match whole(base, at, file) {
                Some(path) => *file = path,
                None => {
                    let what = format!("the path of {key} is not UTF-8");
                    reader.complain(&[key], &what, |e| e.with_help("rename the folder"))
                }
            }
        }
    }
    if let Some(at) = reader.given("multi.recipes").cloned() {
        for file in &mut recipe.multi.recipes {
            match whole(base, &at, Path::new(&*file)).and_then(|p| p.to_str().map(str::to_owned)) {
                Some(path) => *file = path,
                None => reader.complain(&["multi.recipes"], "a path in multi.recipes is not UTF-8", |e| {
                    e.with_help("rename the file or its folder")
                }),
            }
        }
    }
    let Recipe { model, distill, .. } = recipe;
    let folders = [("model.path", Some(&mut model.path)), ("distill.teacher", distill.teacher.as_mut())];
    for (key, folder) in folders {
        if let Some(folder) = folder {
            resolve_model(base, reader, key, folder);
        }
    }
    // The teacher of a model that is pruned is its dense self.
    let distills = reader.all_given().iter().any(|key| key.starts_with("distill."));
    if distill.teacher.is_none() && recipe.prune.is_on() && distills {
        distill.teacher = Some(model.path.clone());
    }
}

/// Makes a model folder independent of the current folder; org/name stays.
fn resolve_model(base: &Path, reader: &mut Reader<'_>, key: &str, value: &mut String) {
    let Some(at) = reader.given(key) else { return };
    match expanded(value) {
        Err(found) => reader.complain(&[key], &format!("{key} is invalid"), |e| e.with_found(found)),
        Ok(text) if text.trim().is_empty() => {
            let hint = "name a model folder, or org/name of a model in the local cache";
            reader.complain(&[key], &format!("{key} is empty"), |e| e.with_help(hint));
        }
        // org/name looks like a relative path; a folder that is there wins.
        Ok(text) => {
            let folder =
                whole(base, at, Path::new(&text)).filter(|f| text.starts_with(['.', '/']) || f.is_dir());
            *value = folder.and_then(|f| f.to_str().map(str::to_owned)).unwrap_or(text);
        }
    }
}

/// The metric that names the best checkpoint where the recipe does not.
fn best_metric(recipe: &Recipe) -> &'static str {
    match recipe.task {
        TaskKind::Similar => recipe.similar.loss.best_metric(),
        task => task.entry().best_metric,
    }
}

/// Whether the run ends with the best checkpoint where the recipe does not say. Of several tasks each has
/// validation examples of its own, or none. Scores of a head that is not trained say nothing.
fn load_best(recipe: &Recipe) -> bool {
    recipe.task == TaskKind::Multi || (recipe.data.validates() && recipe.trains_head())
}

/// Defaults that follow from other keys, as TOML.
pub(super) fn derived(recipe: &Recipe) -> Vec<(&'static str, Option<String>)> {
    let mut defaults = Optim { optimizer: recipe.optim.optimizer, ..Optim::default() };
    defaults.resolve();
    let of_run = [
        ("train.best_metric", best_metric(recipe).to_owned().write()),
        ("train.load_best", load_best(recipe).write()),
    ];
    of_run.into_iter().chain(defaults.of_optimizer()).collect()
}

/// The absolute path of a file: below the recipe's folder, or the current one for a flag. `None` if not
/// UTF-8.
fn whole(base: &Path, at: &Origin, file: &Path) -> Option<PathBuf> {
    let joined = if let Origin::Flag(_) = at { file.to_path_buf() } else { base.join(file) };
    let path = std::path::absolute(&joined).unwrap_or(joined);
    path.to_str().map(PathBuf::from)
}

/// Which schedules read which of their settings.
const SETTINGS: &[(&str, &[ScheduleKind])] = &[
    (
        "num_cycles",
        &[ScheduleKind::Cosine, ScheduleKind::CosineWithRestarts, ScheduleKind::WarmupStableDecay],
    ),
    ("power", &[ScheduleKind::Polynomial]),
    ("lr_end", &[ScheduleKind::Polynomial]),
    ("timescale", &[ScheduleKind::InverseSqrt]),
    ("decay_steps", &[ScheduleKind::WarmupStableDecay]),
    ("min_lr_ratio", &[ScheduleKind::Cosine, ScheduleKind::WarmupStableDecay]),
    ("warmup_type", &[ScheduleKind::WarmupStableDecay]),
    ("decay_type", &[ScheduleKind::WarmupStableDecay]),
];

/// Complains about what does not go together.
pub(super) fn check(recipe: &Recipe, r: &mut Reader<'_>) {
    let distinct: BTreeSet<_> = recipe.seeds.iter().collect();
    if distinct.len() < recipe.seeds.len() {
        r.complain(&["seeds"], "seeds contains the same seed twice", |e| {
            e.with_found(format!("{:?}", recipe.seeds))
                .with_help("remove one: a second run with the same seed gives the same result")
        });
    }
    if recipe.model.freeze.iter().any(String::is_empty) {
        r.complain(
            &["model.freeze"],
            "model.freeze contains an empty prefix, which would freeze every parameter",
            |e| e.with_help("remove it"),
        );
    }
    if recipe.model.attention != Attention::Performer && recipe.model.attention_features.is_some() {
        let keys = ["model.attention_features", "model.attention"];
        r.complain(&keys, "model.attention_features is set, but attention is not approximated", |e| {
            e.with_help("set model.attention = \"performer\", or remove model.attention_features")
        });
    }
    if recipe.tag.strict && recipe.tag.scheme == TagScheme::None {
        r.complain(
            &["tag.strict", "tag.scheme"],
            "tag.strict is set, but tag.scheme = \"none\" has no spans",
            |e| e.with_help("remove tag.strict, or name the scheme of the tags"),
        );
    }
    layers(recipe, r);
    data(recipe, r);
    train(recipe, r);
    optimizer(&recipe.optim, r);
    schedule(&recipe.optim, recipe.train.max_steps, r);
    loss(recipe, r);
    super::distill::check(recipe, r);
    super::prune::check(recipe, r);
    multi(recipe, r);
    similar(recipe, r);
}

fn layers(recipe: &Recipe, r: &mut Reader<'_>) {
    let Some(layers) = &recipe.model.layers else { return };
    if layers.is_empty() {
        r.complain(&["model.layers"], "model.layers is empty", |e| {
            e.with_help("name layers of the model, from 0; remove the key for all of them")
        });
    } else if let Some((_, twice)) = layers.iter().enumerate().find(|(i, l)| layers[..*i].contains(l)) {
        r.complain(&["model.layers"], &format!("model.layers names layer {twice} twice"), |e| {
            e.with_found(format!("{layers:?}")).with_help("name each layer once")
        });
    }
}

fn multi(recipe: &Recipe, r: &mut Reader<'_>) {
    let m = &recipe.multi;
    match (recipe.task == TaskKind::Multi, m.recipes.len()) {
        (true, 0..2) => r.complain(
            &["multi.recipes", "task"],
            "task = \"multi\" has too few recipes in multi.recipes",
            |e| e.with_expected("at least 2, one for each task").with_found(m.recipes.len().to_string()),
        ),
        (false, 1..) => {
            let what = format!("multi.recipes is set, but task = \"{}\"", recipe.task.name());
            r.complain(&["multi.recipes", "task"], &what, |e| {
                e.with_help("set task = \"multi\", or remove [multi]")
            })
        }
        _ => {}
    }
    if !m.weights.is_empty() && m.weights.iter().all(|w| *w == 0.0) {
        r.complain(&["multi.weights"], "every weight in multi.weights is 0", |e| {
            e.with_help("give at least one task a weight above 0")
        });
    }
    if !m.weights.is_empty() && m.weights.len() != m.recipes.len() {
        let what = format!("multi.weights has {} weights for {} recipes", m.weights.len(), m.recipes.len());
        r.complain(&["multi.weights", "multi.recipes"], &what, |e| {
            e.with_help("give one weight for each of multi.recipes, or none")
        });
    }
}

fn similar(recipe: &Recipe, r: &mut Reader<'_>) {
    let contrastive = recipe.task == TaskKind::Similar && recipe.similar.loss == PairLoss::Contrastive;
    if contrastive && recipe.train.batch_tokens.is_none() && recipe.train.batch_size < 2 {
        r.complain(
            &["train.batch_size", "similar.loss"],
            "train.batch_size = 1 is too small: similar.loss = \"contrastive\" compares the pairs of a batch",
            |e| {
                e.with_expected("at least 2")
                    .with_help("raise train.batch_size; 32 is common, and more pairs make a better loss")
            },
        );
    }
}

fn data(recipe: &Recipe, r: &mut Reader<'_>) {
    let d = &recipe.data;
    // A share counts only where no file takes its place.
    let share = |file: &Option<PathBuf>, share: f64| if file.is_some() { 0.0 } else { share };
    let [validation, test] = [share(&d.validation, d.validation_fraction), share(&d.test, d.test_fraction)];
    if validation + test >= 1.0 {
        let sum = format!("{validation} + {test}");
        r.complain(
            &["data.validation_fraction", "data.test_fraction"],
            "data.validation_fraction and data.test_fraction leave nothing to train on",
            |e| e.with_expected("a sum below 1").with_found(sum),
        );
    }
    let label = Some(d.label.as_str()).filter(|_| d.label.several().is_empty());
    let columns = [
        ("data.text", Some(d.text.as_str())),
        ("data.pair", d.pair.as_deref()),
        ("data.label", label),
        ("data.weight", d.weight.as_deref()),
    ];
    // Pairs that belong together need no label: an empty name says that there is none.
    let unlabelled = recipe.task == TaskKind::Similar && recipe.similar.loss == PairLoss::Contrastive;
    for (i, (key, column)) in columns.iter().enumerate() {
        if column.is_some_and(str::is_empty) && !(unlabelled && *key == "data.label") {
            r.complain(&[key], &format!("{key} is empty"), |e| e.with_help("set it to the name of a column"));
        }
        for (other, same) in columns.iter().skip(i + 1).filter(|(_, c)| c.is_some() && c == column) {
            let what = format!("{key} and {other} name the same column");
            r.complain(&[other, key], &what, |e| e.with_found(format!("{:?}", same.unwrap_or(""))));
        }
    }
    indicators(recipe, r);
    weight(recipe, r);
    let classes: BTreeSet<_> = d.classes.iter().collect();
    if let Some(twice) =
        d.classes.iter().enumerate().find(|(i, c)| d.classes.iter().take(*i).any(|b| b == *c))
    {
        let what = format!("data.classes contains {:?} twice", twice.1);
        r.complain(&["data.classes"], &what, |e| e.with_help("name each class once"));
    } else if classes.len() == 1 {
        r.complain(&["data.classes"], "data.classes has one class only, so there is nothing to learn", |e| {
            e.with_expected("at least two classes")
        });
    }
    // Of several tasks each says this for itself: at the top it has no effect, which is warned about.
    let classes = recipe.task.entry().classes || recipe.task == TaskKind::Multi;
    if !classes && !d.classes.is_empty() {
        let what = format!("data.classes is set, but task \"{}\" has no classes", recipe.task.name());
        r.complain(&["data.classes", "task"], &what, |e| {
            e.with_help("remove data.classes, or set task = \"classify\"")
        });
    }
}

/// Complains about weights of rows where rows have no loss of their own. Of several tasks each says this for
/// itself.
fn weight(recipe: &Recipe, r: &mut Reader<'_>) {
    if recipe.data.weight.is_none() || recipe.task.entry().weights || recipe.task == TaskKind::Multi {
        return;
    }
    let with = tasks::TASKS.iter().map(|(_, entry)| entry).filter(|entry| entry.weights);
    let with = with.map(|entry| format!("{:?}", entry.name)).collect::<Vec<_>>().join(" or ");
    let what = format!("data.weight is set, but task {:?} does not take it", recipe.task.name());
    r.complain(&["data.weight", "task"], &what, |e| {
        e.with_expected(format!("task {with}")).with_help("remove data.weight")
    });
}

/// Complains about a list of label columns that is none.
fn indicators(recipe: &Recipe, r: &mut Reader<'_>) {
    let (d, key) = (&recipe.data, "data.label");
    let LabelColumns::Several(names) = &d.label else { return };
    let others =
        [("data.text", Some(&d.text)), ("data.pair", d.pair.as_ref()), ("data.weight", d.weight.as_ref())];
    let other = others.iter().find(|(_, other)| other.is_some_and(|name| names.contains(name)));
    if recipe.task != TaskKind::Multilabel {
        let what = format!("data.label lists columns, but task is {:?}", recipe.task.name());
        r.complain(&[key, "task"], &what, |e| {
            e.with_expected("one column; a list of 0/1 columns is for task \"multilabel\"")
                .with_help("set task = \"multilabel\", or name one column in data.label")
        });
    } else if names.len() < 2 {
        r.complain(&[key], "data.label lists fewer than two columns", |e| {
            e.with_expected("a 0/1 column for each class, at least two")
                .with_found(names.len().to_string())
                .with_help("for one 0/1 column set task = \"classify\" and data.label to its name")
        });
    } else if let Some((i, name)) =
        names.iter().enumerate().find(|(i, n)| n.is_empty() || names[..*i].contains(n))
    {
        let fault = if name.is_empty() { "is empty".to_owned() } else { "is there already".to_owned() };
        r.complain(&[key], &format!("column {} of data.label {fault}", i + 1), |e| {
            e.with_found(format!("{name:?}")).with_help("name each column once")
        });
    } else if let Some((other, name)) = other {
        r.complain(&[key, other], &format!("{other} and data.label name the same column"), |e| {
            e.with_found(format!("{:?}", name.map_or("", |s| s)))
        });
    } else if !d.classes.is_empty() && d.classes != *names {
        r.complain(&["data.classes", key], "data.classes and data.label name different classes", |e| {
            e.with_expected("no data.classes: the names of the columns in data.label are the classes")
                .with_help("leave out data.classes")
        });
    }
}

fn train(recipe: &Recipe, r: &mut Reader<'_>) {
    let t = &recipe.train;
    if t.batch_tokens.is_none() && t.accumulation > t.batch_size {
        let what =
            format!("train.accumulation ({}) exceeds train.batch_size ({})", t.accumulation, t.batch_size);
        r.complain(&["train.accumulation", "train.batch_size"], &what, |e| {
            e.with_help(
                "lower train.accumulation or raise train.batch_size (the sequences of one optimizer step)",
            )
        });
    }
    // Of several tasks each has a length of its own.
    if recipe.task != TaskKind::Multi && t.max_tokens < recipe.data.max_length {
        let what = format!(
            "data.max_length ({}) exceeds train.max_tokens ({})",
            recipe.data.max_length, t.max_tokens
        );
        r.complain(&["train.max_tokens", "data.max_length"], &what, |e| {
            e.with_help("raise train.max_tokens (the tokens of one pass) or lower data.max_length")
        });
    }
    let task = if recipe.task == TaskKind::Similar { recipe.similar.loss.task() } else { recipe.task.name() };
    let known = METRICS.iter().map(|m| m.name).filter(|m| tasks::of_metric(m).any(|of| of == task));
    // Of several tasks: their mean, or TASK_METRIC; which there are is known once their recipes and data are
    // read.
    if recipe.task != TaskKind::Multi && !known.clone().any(|m| m == t.best_metric) {
        let hint = nearest(&t.best_metric, known.clone()).map(|m| format!("did you mean {m:?}?"));
        let names = known.collect::<Vec<_>>().join(", ");
        r.complain(
            &["train.best_metric", "task"],
            &format!("train.best_metric is not a metric of task {task}"),
            |e| {
                let e = e.with_expected(names).with_found(format!("{:?}", t.best_metric));
                match hint {
                    Some(hint) => e.with_help(hint),
                    None => e,
                }
            },
        );
    }
    if recipe.task != TaskKind::Multi && !recipe.data.validates() {
        let asks = [("train.early_stopping", t.early_stopping.is_some()), ("train.load_best", t.load_best)];
        for (key, _) in asks.into_iter().filter(|(_, asked)| *asked) {
            r.complain(&[key], &format!("{key} is set, but there are no validation examples"), |e| {
                e.with_help(format!(
                    "set data.validation, or data.validation_fraction above 0, or remove {key}"
                ))
            });
        }
    }
}

/// Complains about settings that the optimizer does not read, and about Nesterov's momentum without momentum.
fn optimizer(o: &Optim, r: &mut Reader<'_>) {
    for (path, value) in o.of_optimizer() {
        let key = path.trim_start_matches("optim.");
        if value.is_none() || o.optimizer.default(key).is_some() {
            continue;
        }
        let readers = UPDATE_RULES.iter().filter(|rule| rule.default(key).is_some());
        let readers: Vec<String> = readers.map(|rule| format!("{:?}", rule.name)).collect();
        let what = format!("{path} has no effect with optim.optimizer = {:?}", o.optimizer.name);
        let hint = format!("remove it, or set optim.optimizer = {}", readers.join(" or "));
        r.complain(&[path, "optim.optimizer"], &what, |e| e.with_help(hint));
    }
    if o.nesterov == Some(true) && o.momentum == Some(0.0) {
        let what = "optim.nesterov is set, but optim.momentum is 0";
        r.complain(&["optim.nesterov", "optim.momentum"], what, |e| {
            e.with_expected("a momentum above 0")
                .with_help("set optim.momentum, such as 0.9, or remove optim.nesterov")
        });
    }
}

fn schedule(o: &Optim, max_steps: Option<u64>, r: &mut Reader<'_>) {
    if o.warmup_ratio > 0.0 && o.warmup_steps.is_some() {
        let what = "optim.warmup_steps and optim.warmup_ratio are both set";
        r.complain(&["optim.warmup_steps", "optim.warmup_ratio"], what, |e| {
            e.with_help("remove one of them")
        });
    }
    let name = o.schedule.write().unwrap_or_default();
    let mut changed = BTreeSet::new();
    o.walk(&mut |Item { key, value }| {
        if value != key.default {
            changed.insert(key.name);
        }
    });
    for (key, kinds) in
        SETTINGS.iter().filter(|(key, kinds)| changed.contains(key) && !kinds.contains(&o.schedule))
    {
        let readers = kinds.iter().filter_map(Field::write).collect::<Vec<_>>().join(" or ");
        let what = format!("optim.{key} has no effect with optim.schedule = {name}");
        let hint = format!("remove it, or set optim.schedule = {readers}");
        r.complain(&[&format!("optim.{key}"), "optim.schedule"], &what, |e| e.with_help(hint));
    }
    if o.schedule == ScheduleKind::Polynomial && o.lr_end >= o.lr {
        let what = format!("optim.lr_end ({:?}) is not below optim.lr ({:?})", o.lr_end, o.lr);
        r.complain(&["optim.lr_end", "optim.lr"], &what, |e| e.with_help("lower optim.lr_end"));
    }
    if o.schedule == ScheduleKind::CosineWithRestarts && o.num_cycles.is_some_and(|n| n.fract() != 0.0) {
        r.complain(&["optim.num_cycles"], "optim.num_cycles is not a whole number", |e| {
            e.with_expected("a whole number with optim.schedule = \"cosine_with_restarts\"")
                .with_found(format!("{:?}", o.num_cycles.unwrap_or(1.0)))
        });
    }
    let Some(total) = max_steps else { return };
    if let Some([warmup, decay]) = o.longer_than(total) {
        let keys = ["optim.decay_steps", "optim.warmup_steps", "optim.warmup_ratio", "train.max_steps"];
        let error = super::optim::too_long(warmup, decay, total);
        r.complain(&keys, error.what(), |e| {
            e.with_expected(format!("at most train.max_steps = {total}"))
                .with_found(error.found().unwrap_or_default())
                .with_help("lower them, or raise train.max_steps")
        });
    }
}

fn loss(recipe: &Recipe, r: &mut Reader<'_>) {
    let l = &recipe.loss;
    if !recipe.task.entry().classes && recipe.task != TaskKind::Multi {
        let asks = [
            ("loss.label_smoothing", l.label_smoothing > 0.0),
            ("loss.class_weights", l.class_weights.is_some()),
            ("loss.focal_gamma", l.focal_gamma > 0.0),
        ];
        for (key, _) in asks.into_iter().filter(|(_, asked)| *asked) {
            let what = format!("{key} is set, but task \"{}\" has no classes", recipe.task.name());
            r.complain(&[key, "task"], &what, |e| {
                e.with_help(format!("remove {key}, or set task = \"classify\""))
            });
        }
    }
    r_drop(recipe, r);
    let Some(ClassWeights::Values(weights)) = &l.class_weights else { return };
    if weights.iter().all(|w| *w == 0.0) {
        r.complain(&["loss.class_weights"], "every weight in loss.class_weights is 0", |e| {
            e.with_help("give at least one class a weight above 0")
        });
    }
    let classes = recipe.data.classes.len();
    if classes > 0 && weights.len() != classes {
        let what = format!("loss.class_weights has {} weights for {classes} classes", weights.len());
        r.complain(&["loss.class_weights", "data.classes"], &what, |e| {
            e.with_help("give one weight for each of data.classes")
        });
    }
}

fn r_drop(recipe: &Recipe, r: &mut Reader<'_>) {
    if recipe.loss.r_drop == 0.0 {
        return;
    }
    if ![TaskKind::Classify, TaskKind::Tag, TaskKind::Multi].contains(&recipe.task) {
        let what = format!("loss.r_drop is set, but task \"{}\" does not have it", recipe.task.name());
        r.complain(&["loss.r_drop", "task"], &what, |e| {
            e.with_expected("task \"classify\" or \"tag\"").with_help("remove loss.r_drop")
        });
    }
    let m = &recipe.model;
    if [m.dropout, m.attention_dropout, m.classifier_dropout].iter().all(|rate| *rate == Some(0.0)) {
        let keys = ["loss.r_drop", "model.dropout", "model.attention_dropout", "model.classifier_dropout"];
        r.complain(
            &keys,
            "loss.r_drop is set, but every dropout rate is 0, so both passes give the same",
            |e| e.with_help("remove loss.r_drop, or raise a dropout rate"),
        );
    }
}
