//! Downloads a model into the Hub's cache. No other code of the library uses the network.

use super::{Env, Id, is_commit};
use crate::checkpoint::Weights;
use crate::checkpoint::json::{ORDINARY, check, located};
use crate::checkpoint::tensors::{INDEX, SINGLE};
use crate::error::{Error, Kind, Result};
use crate::files;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files of a model folder that change what is computed, besides weights, `tokenizer*.json` and the
/// modules of sentence-transformers.
const FILES: &[&str] = &[
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "modules.json",
    "config_sentence_transformers.json",
    "tempra.json",
];

/// Fetches the files of a model, weights last. Each is written under a temporary name and renamed, and the
/// reference is written at the end. So an interrupted download is never taken for a complete one.
pub(super) fn download(id: &Id, cache: &Path, env: &Env) -> Result<PathBuf> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .build()
        .into();
    let get = |url: &str| {
        // Without compression: the length is compared below, and weights do not compress.
        let mut request = agent.get(url).header("Accept-Encoding", "identity");
        if let Some(token) = &env.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|e| failed(id, url, &e.to_string()))
    };

    let rev = id.rev.replace('/', "%2F");
    let url = format!("{}/api/models/{}/revision/{rev}", env.endpoint, id.name);
    let mut text = Vec::new();
    let body = get(&url)?.into_body();
    body.into_reader()
        .take(16_000_000)
        .read_to_end(&mut text)
        .map_err(|e| failed(id, &url, &e.to_string()))?;
    let bad = |e: serde_json::Error| {
        located(Path::new(&url), &e).with_help("check the network connection and HF_ENDPOINT")
    };
    check(&text, ORDINARY).map_err(bad)?;
    let info: Value = serde_json::from_slice(&text).map_err(bad)?;
    let commit = info.get("sha").and_then(Value::as_str).filter(|s| is_commit(s));
    let commit = commit.ok_or_else(|| failed(id, &url, "the server's answer names no commit"))?;
    let names = info.get("siblings").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = names.filter_map(|f| f.get("rfilename").and_then(Value::as_str)).collect();

    let repo = cache.join(id.folder());
    let dir = repo.join("snapshots").join(commit);
    let mkdir = |dir: &Path| std::fs::create_dir_all(dir).map_err(|e| disk(dir, &e));
    mkdir(&dir)?;
    for name in wanted(&names).ok_or_else(|| {
        Error::model(format!("the model `{}` has no safetensors weights on the Hub", id.name))
            .with_expected(format!("config.json and {SINGLE}"))
            .with_found(names.join(", "))
            .with_help("choose another revision, or convert the model to safetensors")
    })? {
        let path = dir.join(name);
        if path.exists() {
            continue;
        }
        mkdir(path.parent().unwrap_or(&dir))?;
        let url = format!("{}/{}/resolve/{commit}/{name}", env.endpoint, id.name);
        crate::console::line(format!("downloading {url}"));
        let response = get(&url)?;
        let length = response.body().content_length();
        let temp = files::sibling(&path, "tmp");
        let write = || -> std::io::Result<u64> {
            let mut file = File::create(&temp)?;
            let n = std::io::copy(&mut response.into_body().into_reader(), &mut file)?;
            file.sync_all()?;
            Ok(n)
        };
        let wrote = write().map_err(|e| failed(id, &url, &e.to_string())).and_then(|n| {
            let whole = length.is_none_or(|want| want == n);
            if !whole {
                return Err(failed(id, &url, "the connection closed before the end of the file"));
            }
            if name.ends_with(".safetensors") {
                Weights::check(&temp).map_err(|e| failed(id, &url, &e.to_string()))?;
            }
            std::fs::rename(&temp, &path).map_err(|e| disk(&path, &e))
        });
        wrote.inspect_err(|_| {
            let _ = std::fs::remove_file(&temp);
        })?;
    }
    if id.rev != commit {
        let reference = repo.join("refs").join(&id.rev);
        files::replace(&reference, commit.as_bytes()).map_err(|e| disk(&reference, &e))?;
    }
    Ok(dir)
}

/// The files to fetch, in order; `None` if the config or the weights are missing.
fn wanted<'a>(names: &[&'a str]) -> Option<Vec<&'a str>> {
    let plain = |n: &str| !n.contains(['/', '\\', ':', '\0']) && !n.starts_with('.');
    let small = |n: &str| {
        FILES.contains(&n)
            || ["tokenizer", "sentence_"].iter().any(|s| n.starts_with(s) && n.ends_with(".json"))
    };
    let shard = |n: &str| n.starts_with("model-") && n.ends_with(".safetensors");
    let has = |n: &str| names.contains(&n);
    // The settings of a sentence-transformers module, such as `1_Pooling/config.json`.
    let module = |n: &str| {
        let inside = n.split_once('/').filter(|(folder, file)| plain(folder) && *file == "config.json");
        inside.is_some_and(|(folder, _)| folder.starts_with(|c: char| c.is_ascii_digit()))
    };
    let of_model = |n: &&str| (plain(n) && small(n)) || module(n);
    let mut list: Vec<&str> = names.iter().copied().filter(of_model).collect();
    if has(SINGLE) {
        list.push(SINGLE);
    } else if has(INDEX) {
        list.extend(names.iter().copied().filter(|n| plain(n) && shard(n)));
        list.push(INDEX);
    } else {
        return None;
    }
    has("config.json").then_some(list)
}

fn failed(id: &Id, url: &str, why: &str) -> Error {
    Error::model(format!("cannot download the model `{}`", id.name))
        .with_found(format!("{why} ({url})"))
        .with_help("check the model's name and the network connection; a private model needs HF_TOKEN")
}

fn disk(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Disk, "cannot write this file of the Hub's cache", path, e)
        .with_help("free some space, or set HF_HUB_CACHE to a folder that is writable")
}
