//! A model folder that is not what was written is noticed: by `checkpoint verify`, and by whatever loads it.

use crate::cli::{fine, program, refused, stderr};
use crate::support::{cpu, golden, json};
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::verify;
use tempra::models::{Model, Options, Outputs};
use tempra::rng::Rng;

/// A finished run of several tasks, with a folder `best-NAME`, and one of vectors, whose folder has folders
/// inside.
fn runs() -> TempDir {
    let dir = tempdir().expect("a folder");
    let at = dir.path();
    prepared(at, &golden("bert/a"));
    data(at);
    for (task, file, more) in [
        ("classify", "classify.csv", ""),
        ("tag", "tag.conll", "stride = 2\n"),
        ("similar", "similar.csv", "pair = \"pair\"\n"),
    ] {
        std::fs::write(at.join(format!("{task}.toml")), recipe(task, file, more, task)).expect("written");
    }
    ok("similar", tempra(at, &["train", "similar.toml", "-q"]));
    let multi = "task = \"multi\"\nthreads = 1\nseed = 3\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"classify.toml\", \"tag.toml\"]\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n\
                 [train]\nepochs = 4\nbatch_size = 4\neval_every = 2\nsave_every = 2\n";
    std::fs::write(at.join("multi.toml"), multi).expect("written");
    ok("multi", tempra(at, &["train", "multi.toml", "-q"]));
    dir
}

/// Every file below a folder by its path, with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(dir).expect("below").to_string_lossy().into_owned();
                    drop(found.insert(name, std::fs::read(&path).expect("read")));
                }
            }
        }
    }
    found
}

fn check(dir: &Path, args: &[&str]) -> Output {
    program(dir, &[&["checkpoint", "verify"], args].concat()).output().expect("run")
}

#[test]
fn verify_covers_the_models_of_a_run() {
    let dir = runs();
    let at = dir.path();
    let all = |run: &str| -> Vec<String> {
        let out = fine(&check(at, &[run, "--json"]));
        let found: Value = serde_json::from_str(&out).expect("JSON");
        let paths = found["checkpoints"].as_array().expect("a list").iter();
        paths
            .map(|c| c["path"].as_str().expect("a path").rsplit('/').next().unwrap_or("").to_owned())
            .collect()
    };
    let found = all("multi");
    assert!(found.contains(&"model".to_owned()), "{found:?}");
    let best =
        found.iter().find(|n| n.starts_with("best-")).expect("a task whose best step is another").clone();
    assert!(all("similar").contains(&"model".to_owned()));
    let folders = [format!("multi/{best}"), "multi/model".into(), "similar/model".into()];
    let mut rng = Rng::new(8, "damage", 0);
    for folder in &folders {
        let (run, path) = (folder.split('/').next().expect("a run"), at.join(folder));
        let before = files(&path);
        assert!(before.contains_key("manifest.json") && before.contains_key("model.safetensors"), "{folder}");
        assert!(!folder.starts_with("similar") || before.contains_key("1_Pooling/config.json"), "{folder}");
        for (name, bytes) in &before {
            let file = path.join(name);
            let mut bad = bytes.clone();
            let bit = rng.below(8 * bad.len() as u32) as usize;
            bad[bit / 8] ^= 1 << (bit % 8);
            let cut = bytes[..bytes.len() - 1].to_vec();
            for (what, content) in [("one bit", Some(bad)), ("cut short", Some(cut)), ("deleted", None)] {
                match content {
                    Some(content) => std::fs::write(&file, content).expect("written"),
                    None => std::fs::remove_file(&file).expect("removed"),
                }
                let report = verify(&at.join(run)).expect("a report");
                let wrong: Vec<_> = report.checkpoints.iter().filter(|c| !c.ok()).collect();
                assert!(wrong.len() == 1 && wrong[0].path == path, "{folder} {name} {what}: {report}");
                // A bit of the manifest may be a bit of another file's hash.
                if name != "manifest.json" {
                    let named = wrong[0].problems.iter().any(|p| p.starts_with(name));
                    assert!(named, "{folder} {name} {what}: {report}");
                    assert!(!verify(&path).expect("a report").ok(), "{folder} {name} {what}");
                }
                std::fs::write(&file, bytes).expect("written");
            }
        }
        // A downloaded folder has links for files.
        #[cfg(unix)]
        {
            let linked = at.join("linked");
            std::fs::create_dir_all(linked.join("1_Pooling")).expect("made");
            for name in before.keys() {
                std::os::unix::fs::symlink(path.join(name), linked.join(name)).expect("linked");
            }
            assert!(verify(&linked).expect("a report").ok());
            std::fs::remove_dir_all(&linked).expect("removed");
        }
        // A card beside the model is no damage; another vocabulary is.
        std::fs::write(path.join("README.md"), "# A model").expect("written");
        assert!(verify(&path).expect("a report").ok());
        std::fs::write(path.join("added_tokens.json"), "{}").expect("written");
        assert!(verify(&path).expect("a report").to_string().contains("added_tokens.json"));
        std::fs::remove_file(path.join("added_tokens.json")).expect("removed");
        assert!(verify(&path).expect("a report").ok());
    }
    // Through the program: the exit code, and what it says.
    let weights = at.join("similar/model/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, &bytes).expect("written");
    for path in ["similar", "similar/model"] {
        let out = check(at, &[path]);
        assert_eq!(out.status.code(), Some(4));
        assert!(String::from_utf8_lossy(&out.stdout).contains("model.safetensors has changed"), "{out:?}");
    }
    assert!(refused(&check(at, &["base"]), 4).contains("manifest"), "a folder of somebody else");
}

#[test]
fn loading_warns_of_what_has_changed() {
    let dir = runs();
    let at = dir.path();
    let go = |args: &[&str]| program(at, args).output().expect("run");
    let said = |args: &[&str]| -> String {
        let out = go(args);
        fine(&out);
        stderr(&out).to_owned()
    };
    let loads: [&[&str]; 3] = [
        &["predict", "multi/model", "classify.csv", "--head", "classify"],
        &["eval", "multi/model", "tag.conll", "--head", "tag"],
        &["embed", "similar/model", "similar.csv"],
    ];
    for args in loads {
        assert!(!said(args).contains("warning"), "{args:?}");
    }
    assert!(
        !said(&["predict", "multi/checkpoint-2", "classify.csv", "--head", "classify"]).contains("warning")
    );
    let flip = |path: &str| {
        let path = at.join(path);
        let mut bytes = std::fs::read(&path).expect("read");
        // The lowest bit of a value stays finite.
        let value = bytes.len() - 4;
        bytes[value] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    };
    flip("multi/model/model.safetensors");
    flip("similar/model/model.safetensors");
    for args in loads {
        let said = said(args);
        assert!(
            said.contains("warning") && said.contains("model.safetensors has changed"),
            "{args:?}: {said}"
        );
    }
    assert!(said(&[loads[0], &["-q"]].concat()).contains("has changed"), "a warning is not quiet");
    // A config that was edited on purpose, and a model that goes on being trained.
    let config = at.join("similar/model/config.json");
    let mut edited = json(&config);
    edited["hidden_dropout_prob"] = json!(0.2);
    std::fs::write(&config, edited.to_string()).expect("written");
    let more =
        said(&["train", "similar.toml", "--set", "model.path=./similar/model", "--set", "output=more"]);
    assert!(more.contains("config.json has") && more.contains("model.safetensors has changed"), "{more}");
    std::fs::remove_file(at.join("similar/model/manifest.json")).expect("removed");
    assert!(!said(loads[2]).contains("warning"), "without a manifest nothing is compared");
    assert_eq!(read(&at.join("more/metrics.json"))["steps"], 3);
}

/// Layers that config.json leaves out, and tensors in layers that it has no place for, under the names of
/// every architecture.
#[test]
fn weights_of_another_model_are_refused() {
    let folders =
        std::fs::read_dir(golden("encoders")).expect("a folder").map(|e| e.expect("an entry").path());
    for from in folders.chain([golden("bert/a")]) {
        let name = from.file_name().expect("a name").to_string_lossy().into_owned();
        let config = json(&from.join("config.json"));
        let depth = ["num_hidden_groups", "num_hidden_layers", "n_layers", "n_layer"]
            .into_iter()
            .find(|key| config.get(*key).is_some_and(|n| *n != 1))
            .expect("a number of layers");
        let bytes = std::fs::read(from.join("model.safetensors")).expect("read");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let fewer = config[depth].as_u64().expect("a number") - 1;
        let shallow = |c: &mut Value| {
            c[depth] = json!(fewer);
            if let Some(types) = c.get_mut("layer_types").and_then(Value::as_array_mut) {
                types.pop();
            }
        };
        let refuse = |change: &dyn Fn(&mut Value),
                      rename: &dyn Fn(&str) -> Option<String>,
                      words: &[String]| {
            let dir = tempdir().expect("a folder");
            let mut config = config.clone();
            change(&mut config);
            std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
            let all = tensors.tensors().into_iter();
            let all: Vec<_> = all
                .flat_map(|(n, t)| {
                    let more = rename(&n).map(|new| (new, t.clone()));
                    more.into_iter().chain([(n, t)]).collect::<Vec<_>>()
                })
                .collect();
            let file = safetensors::serialize(all, None).expect("serialised");
            std::fs::write(dir.path().join("model.safetensors"), file).expect("written");
            let of_head = words.iter().any(|w| w.starts_with("head."));
            let embedding = Some(Outputs::Embedding).filter(|_| !of_head);
            for outputs in [None].into_iter().chain(embedding.map(Some)) {
                let options = Options { outputs, ..Options::default() };
                let Err(e) = Model::open(&cpu(1), dir.path(), &options) else { panic!("{name} was opened") };
                let e = e.to_string();
                words.iter().for_each(|w| assert!(e.contains(w), "{name}: {e} lacks {w}"));
            }
        };
        refuse(&shallow, &|_| None, &[format!(".{fewer}."), "layers".into()]);
        // One layer more than config.json has, and a tensor that no layer of it has.
        let deep =
            |n: &str| n.contains(&format!(".{fewer}.")).then(|| n.replace(&format!(".{fewer}."), ".12."));
        refuse(&|_| {}, &deep, &[".12.".into(), format!("{} layers", fewer + 1)]);
        // A bias that config.json says the model does not have.
        if name == "modernbert" {
            for bias in ["head.dense.bias", "head.norm.bias"] {
                let weight = bias.replace("bias", "weight");
                refuse(&|_| {}, &|n| (n == weight).then(|| bias.to_owned()), &[bias.to_owned()]);
            }
        }
        let first = tensors.names().into_iter().find(|n| n.contains(".0.")).expect("a layer").to_owned();
        let odd = format!("{first}_scale");
        refuse(&|_| {}, &|n| (n == first).then(|| odd.clone()), std::slice::from_ref(&odd));
    }
}
