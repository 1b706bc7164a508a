//! Several tasks on one encoder: a recipe that names the recipes of the tasks.

use super::write::{Lines, list, quoted, written};
use crate::error::{Error, Result};
use crate::train::recipe::{Recipe, TaskKind};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A recipe for several tasks, and what was chosen, in words.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for fewer than two recipes, for two of one name, and for one
/// that cannot be read.
pub fn combine(recipes: &[PathBuf], output: &Path) -> Result<(String, Vec<(&'static str, String)>)> {
    if recipes.len() < 2 {
        return Err(Error::usage("one recipe is not several tasks")
            .with_expected("two recipes or more, each for one task")
            .with_help("write one for each task first: tempra init DATA -o NAME.toml"));
    }
    let (mut choices, mut names, mut model) = (Vec::new(), BTreeSet::new(), None);
    for path in recipes {
        let recipe = Recipe::load(path, &[])?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if recipe.task == TaskKind::Multi {
            return Err(Error::usage("a recipe of several tasks cannot be one of several tasks")
                .at(path)
                .with_help("name the recipes that it names"));
        }
        if !names.insert(name.clone()) {
            return Err(Error::usage(format!("two recipes are named {name:?}"))
                .at(path)
                .with_expected("another name for each, which becomes the name of its task")
                .with_help("rename one of the files"));
        }
        choices.push(("task", format!("{name}: {}, {}", recipe.task.name(), recipe.data.train.display())));
        // All are trained on the model of the first.
        model.get_or_insert(recipe.model.path);
    }
    let model = model.unwrap_or_default();
    let why = "the model of the first recipe; those of the others are not used";
    choices.push(("model", format!("{model}: {why}")));
    let path = match written(Path::new(&model), output) {
        _ if !Path::new(&model).is_dir() => model,
        whole if Path::new(&whole).is_absolute() => whole,
        below => format!("./{below}"),
    };
    let files: Vec<String> = recipes
        .iter()
        .map(|path| match written(path, output) {
            whole if Path::new(&whole).is_absolute() => whole,
            below => format!("./{below}"),
        })
        .collect();
    let sampling =
        "a task is trained as often as it has data; \"temperature\" and \"round_robin\" favour small ones";
    choices.push(("sampling", format!("proportional: {sampling}")));
    let mut w = Lines("# Written by `tempra init`. `tempra help recipe` explains every key.\n".to_owned());
    w.key("task", &quoted("multi"), "several tasks on one encoder");
    let run = names.into_iter().collect::<Vec<_>>().join("-");
    w.key("output", &quoted(&format!("runs/{run}")), "the folder of the run");
    w.table("model");
    w.key("path", &quoted(&path), why);
    w.table("multi");
    w.key("recipes", &list(&files), "task, data, loss and the task's own section of each count");
    w.key("sampling", &quoted("proportional"), sampling);
    w.table("train");
    w.key("epochs", "3", "");
    w.key("batch_size", "16", "");
    w.table("optim");
    w.key("lr", "5e-5", "usual for fine-tuning; try 2e-5 and 1e-4 as well");
    w.key("weight_decay", "0.01", "");
    w.key("warmup_ratio", "0.1", "");
    Ok((w.0, choices))
}
