//! Where things are kept between runs that can be made again: tokens, compiled kernels, certificates.

use std::path::PathBuf;

/// `TEMPRA_CACHE`, else `XDG_CACHE_HOME/tempra`, else `~/.cache/tempra`.
pub fn dir() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("TEMPRA_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("tempra")))
        .or_else(|| var("HOME").map(|d| d.join(".cache/tempra")))
}
