//! Where a model is: a folder, or `org/name[@rev]` in the local cache of the Hugging Face Hub, which is only read.
//!
//! Cache layout as published (huggingface.co/docs/hub/local-cache): `models--org--name/refs/<rev>` holds a commit, and
//! `models--org--name/snapshots/<commit>/` the files. Nothing touches the network unless the feature `hub` is built in.

#[cfg(feature = "hub")]
mod hub;

pub use crate::checkpoint::json::read_json;
use crate::checkpoint::tensors::{INDEX, SINGLE};
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// What `resolve` takes from the environment.
#[derive(Clone, Debug)]
pub struct Env {
    /// The Hub's cache, if any place for one is known.
    pub cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: nothing is downloaded.
    pub offline: bool,
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, sent to the endpoint alone.
    pub token: Option<String>,
}

impl Env {
    /// Reads the variables by `var`: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else
    /// `~/.cache/huggingface/hub`. An empty variable counts as unset.
    pub fn from(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|v| !v.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = || path("HOME").or_else(|| path("USERPROFILE")).map(|h| h.join(".cache"));
        let hf_home = || {
            let cache = path("XDG_CACHE_HOME").or_else(home);
            path("HF_HOME").or_else(|| cache.map(|c| c.join("huggingface")))
        };
        let yes = |v: String| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str());
        let endpoint = var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into());
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| hf_home().map(|h| h.join("hub"))),
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            endpoint: endpoint.trim_end_matches('/').into(),
            token: var("HF_TOKEN"),
        }
    }
}

/// The folder of a model: `name_or_path` itself if it is one, else its snapshot in the Hub's cache.
///
/// With the feature `hub` a model that is not there is downloaded, unless `HF_HUB_OFFLINE=1`. Errors are of kind
/// `Model` and say where was looked and how to get it.
pub fn resolve(name_or_path: &str) -> Result<PathBuf> {
    resolve_in(name_or_path, &Env::from(|name| std::env::var(name).ok()))
}

/// As [`resolve`], in a given environment.
pub fn resolve_in(name_or_path: &str, env: &Env) -> Result<PathBuf> {
    let path = Path::new(name_or_path);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return super::sentence::transformer(path),
        Ok(_) => {
            return Err(Error::model("is a file")
                .at(path)
                .with_expected("the folder of a model, or org/name"));
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Error::io(Kind::Model, "cannot be read", path, &e));
        }
        Err(_) => {}
    }
    let Some(id) = Id::parse(name_or_path) else {
        return Err(Error::model(format!("there is no model `{name_or_path}`"))
            .with_expected("the folder of a model, or org/name[@revision]"));
    };
    let looked = match &env.cache {
        None => "no folder of that name, and no cache: HF_HUB_CACHE, HF_HOME and HOME are unset".to_string(),
        Some(cache) => match id.in_cache(cache)? {
            Cached::Whole(dir) => return Ok(dir),
            Cached::Partly(dir) => format!("an incomplete copy: {}", dir.display()),
            Cached::No => {
                format!("no folder of that name, and nothing in {}", cache.join(id.folder()).display())
            }
        },
    };
    missing(&id, looked, env)
}

#[cfg(feature = "hub")]
fn missing(id: &Id, looked: String, env: &Env) -> Result<PathBuf> {
    match &env.cache {
        Some(cache) if !env.offline => hub::download(id, cache, env),
        _ => Err(absent(id, looked).with_help(format!("unset HF_HUB_OFFLINE, or {}", how(id)))),
    }
}

#[cfg(not(feature = "hub"))]
fn missing(id: &Id, looked: String, _: &Env) -> Result<PathBuf> {
    Err(absent(id, looked).with_help(format!("{}, or give the folder of a model", how(id))))
}

fn absent(id: &Id, looked: String) -> Error {
    Error::model(format!("the model `{}` is not on this machine", id.name)).with_found(looked)
}

fn how(id: &Id) -> String {
    match id.rev.as_str() {
        "main" => format!("get it by `hf download {}`", id.name),
        rev => format!("get it by `hf download {} --revision {rev}`", id.name),
    }
}

/// `[org/]name[@rev]`.
#[derive(Debug)]
struct Id {
    name: String,
    rev: String,
}

enum Cached {
    Whole(PathBuf),
    Partly(PathBuf),
    No,
}

impl Id {
    /// `None` unless every part is of the Hub's characters, so that none of them can lead out of the cache.
    fn parse(s: &str) -> Option<Id> {
        let (name, rev) = s.split_once('@').unwrap_or((s, "main"));
        let part = |p: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !p.is_empty()
                && p.len() <= 96
                && !p.starts_with(['.', '-'])
                && !p.contains("..")
                && p.chars().all(plain)
        };
        let ok = name.split('/').count() <= 2 && name.split('/').all(part) && rev.split('/').all(part);
        ok.then(|| Id { name: name.into(), rev: rev.into() })
    }

    fn folder(&self) -> String {
        format!("models--{}", self.name.replace('/', "--"))
    }

    fn in_cache(&self, cache: &Path) -> Result<Cached> {
        let repo = cache.join(self.folder());
        let reference = repo.join("refs").join(&self.rev);
        let commit = match std::fs::read_to_string(&reference) {
            Ok(text) => text.trim().to_string(),
            // A commit needs no reference.
            Err(_) => self.rev.clone(),
        };
        if !is_commit(&commit) {
            if reference.exists() {
                return Err(Error::model("is damaged")
                    .at(&reference)
                    .with_expected("a commit hash")
                    .with_help(how(self)));
            }
            return Ok(Cached::No);
        }
        let dir = repo.join("snapshots").join(commit);
        let there = |name: &str| dir.join(name).exists();
        // Old weights count: the refusal of a pickle says more than "not there".
        let weights = [SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"];
        Ok(if there("config.json") && weights.iter().any(|w| there(w)) {
            Cached::Whole(dir)
        } else if dir.is_dir() {
            Cached::Partly(dir)
        } else {
            Cached::No
        })
    }
}

fn is_commit(s: &str) -> bool {
    s.len() == 40 && s.bytes().all(|b| b.is_ascii_hexdigit())
}
