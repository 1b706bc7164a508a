//! Finds a model: a folder, or `org/name[@rev]` in the local cache of the Hugging Face Hub.
//!
//! Cache layout as published (huggingface.co/docs/hub/local-cache): `models--org--name/refs/<rev>` holds a
//! commit, and `models--org--name/snapshots/<commit>/` holds the files. Only a build with the feature `hub`
//! uses the network or writes to the cache.

#[cfg(feature = "hub")]
mod hub;

pub use crate::checkpoint::json::read_json;
use crate::checkpoint::tensors::{INDEX, SINGLE};
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// The environment variables that [`resolve`] reads.
#[derive(Clone, Debug)]
pub struct Env {
    /// The Hub's cache folder; `None` if no variable names one.
    pub cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: whether downloads are forbidden.
    pub offline: bool,
    /// `HF_ENDPOINT`, without a trailing slash.
    pub endpoint: String,
    /// `HF_TOKEN`, sent only to the endpoint.
    pub token: Option<String>,
}

impl Env {
    /// Reads the variables with `var`. The cache is `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`. An empty variable counts as unset.
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

/// The folder of a model: `name_or_path` itself if it is a folder, else its snapshot in the Hub's cache.
///
/// With the feature `hub` a model that is not in the cache is downloaded, unless `HF_HUB_OFFLINE=1`.
///
/// # Errors
/// [`Kind::Model`] if there is no such model, or it cannot be read or downloaded. The message says where
/// tempra looked and how to get the model. [`Kind::Disk`] if a download cannot be written.
///
/// ```
/// let folder = tempra::models::source::resolve("tests/golden/bert/a")?;
/// assert!(folder.join("config.json").exists());
/// # Ok::<(), tempra::error::Error>(())
/// ```
pub fn resolve(name_or_path: &str) -> Result<PathBuf> {
    resolve_in(name_or_path, &Env::from(|name| std::env::var(name).ok()))
}

/// As [`resolve`], in a given environment.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_in(name_or_path: &str, env: &Env) -> Result<PathBuf> {
    let path = Path::new(name_or_path);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let run = path.join("model");
            if !path.join("config.json").exists() && run.join("config.json").exists() {
                return Err(Error::model("the folder is a run folder, not a model folder")
                    .at(path)
                    .with_help(format!("did you mean {}?", run.display())));
            }
            return super::sentence::transformer(path);
        }
        Ok(_) => {
            return Err(Error::model("the model is a file")
                .at(path)
                .with_expected("a model folder, or org/name[@revision]")
                .with_help("name the folder that holds config.json and the weights"));
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Error::io(Kind::Model, "cannot be read", path, &e));
        }
        Err(_) => {}
    }
    let Some(id) = Id::parse(name_or_path) else {
        return Err(Error::model(format!("there is no model `{name_or_path}`"))
            .with_expected("a model folder, or org/name[@revision] of the Hugging Face Hub")
            .with_help("check the spelling; a relative path starts at the current folder"));
    };
    let looked = match &env.cache {
        None => "no folder of that name, and no cache folder: HF_HUB_CACHE, HF_HOME and HOME are unset"
            .to_string(),
        Some(cache) => match id.in_cache(cache)? {
            Cached::Whole(dir) => return Ok(dir),
            Cached::Partly(dir) => format!("an incomplete copy in {}", dir.display()),
            Cached::No => {
                format!("no folder of that name, and no copy in {}", cache.join(id.folder()).display())
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
    Err(absent(id, looked).with_help(format!("{}, or name a model folder", how(id))))
}

fn absent(id: &Id, looked: String) -> Error {
    Error::model(format!("the model `{}` is not on this machine", id.name))
        .with_expected("a model folder, or a model in the Hugging Face cache")
        .with_found(looked)
}

fn how(id: &Id) -> String {
    match id.rev.as_str() {
        "main" => format!("run `hf download {}`", id.name),
        rev => format!("run `hf download {} --revision {rev}`", id.name),
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
    /// `None` unless every part consists of characters that the Hub allows, so that no path can leave the
    /// cache.
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
                return Err(Error::model("the cache entry is damaged")
                    .at(&reference)
                    .with_expected("a commit hash")
                    .with_help(how(self)));
            }
            return Ok(Cached::No);
        }
        let dir = repo.join("snapshots").join(commit);
        let there = |name: &str| dir.join(name).exists();
        // Pickled weights count as complete: the error that refuses a pickle says more than "not on this
        // machine".
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
