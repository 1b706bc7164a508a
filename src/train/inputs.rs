//! A run must not write over what it reads: model, data, recipes.

use super::Recipe;
use super::recipe::TaskKind;
use crate::checkpoint::{is_run_entry, real_path};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Refuses a recipe whose run folder holds one of its inputs where the run writes, by whatever spelling or
/// link.
///
/// `recipe_file` is the file that the recipe was read from, if there is one. It may be the `recipe.toml` of
/// the run folder itself as long as it says the same: then it stays as it is.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), naming the input.
pub fn protect_inputs(recipe: &Recipe, recipe_file: Option<&Path>) -> Result<()> {
    let output = real_path(&recipe.output);
    let remedy = "choose another output folder";
    let model = Path::new(&recipe.model.path);
    if model.is_dir() {
        let real = real_path(model);
        let fault = if output == real {
            Some("the output folder is the folder of the pretrained model")
        } else if output.starts_with(&real) {
            Some("the output folder is inside the folder of the pretrained model")
        } else if real.starts_with(&output) {
            Some("the pretrained model is inside the output folder")
        } else {
            None
        };
        if let Some(fault) = fault {
            return Err(Error::usage(fault)
                .at(&recipe.output)
                .with_expected("a run folder outside of the model folder, and the other way round")
                .with_found(format!("model.path = \"{}\"", model.display()))
                .with_help(remedy));
        }
    }
    let written = written(&output);
    for (key, file) in files(recipe) {
        let real = real_path(&file);
        if output == real || written.iter().any(|path| real.starts_with(path)) {
            return Err(Error::usage("the run would overwrite one of its inputs")
                .at(&file)
                .with_found(format!("{key} is a file that the run in {} replaces", recipe.output.display()))
                .with_help(remedy));
        }
    }
    let Some(file) = recipe_file else { return Ok(()) };
    let real = real_path(file);
    let same = real == output.join("recipe.toml") && says_the_same(&real, recipe);
    if !same && written.iter().any(|path| real.starts_with(path)) {
        return Err(Error::usage("the run would overwrite its own recipe")
            .at(file)
            .with_found(format!("it is in the output folder {}", recipe.output.display()))
            .with_help("move the recipe out of the run folder, or choose another output folder"));
    }
    Ok(())
}

/// Whether a recipe file reads as the same recipe, the settings apart that cannot change its result.
pub(super) fn says_the_same(file: &Path, recipe: &Recipe) -> bool {
    file.is_file() && Recipe::load(file, &[]).is_ok_and(|there| there.hash() == recipe.hash())
}

/// The paths in a run folder that a run writes or replaces, links followed.
fn written(output: &Path) -> Vec<PathBuf> {
    let there = std::fs::read_dir(output).into_iter().flatten().flatten();
    let there = there.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let fixed =
        ["run.lock", "latest", "metrics.jsonl", "metrics.json", "recipe.toml", "trainer_state.json", "model"];
    let names = fixed.into_iter().map(str::to_owned).chain(there.filter(|name| is_run_entry(name)));
    let mut paths: Vec<PathBuf> = names.map(|name| real_path(&output.join(name))).collect();
    // The summary of several seeds stands beside their run folders.
    if output.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-")) {
        paths.push(real_path(&output.with_file_name("summary.json")));
    }
    paths
}

/// The files that a run reads, and the key that names each.
fn files(recipe: &Recipe) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    let mut add = |recipe: &Recipe, of: &str| {
        let d = &recipe.data;
        let named =
            [("train", Some(&d.train)), ("validation", d.validation.as_ref()), ("test", d.test.as_ref())];
        for (key, file) in named {
            let file = file.filter(|f| !f.as_os_str().is_empty());
            all.extend(file.map(|f| (format!("data.{key}{of}"), f.clone())));
        }
    };
    add(recipe, "");
    if recipe.task == TaskKind::Multi {
        for path in &recipe.multi.recipes {
            // One that cannot be read is reported when the run is prepared.
            if let Ok(one) = Recipe::load(Path::new(path), &[]) {
                add(&one, &format!(" of {path}"));
            }
        }
        all.extend(recipe.multi.recipes.iter().map(|path| ("multi.recipes".to_owned(), PathBuf::from(path))));
    }
    all
}
