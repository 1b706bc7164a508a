//! Keeps measured ceilings, so that `tempra devices` can show them.

use super::report::{Ceilings, DeviceEntry};
use std::path::PathBuf;

fn place(description: &str, dtype: &str) -> Option<PathBuf> {
    let key = blake3::hash(format!("{} {description} {dtype}", env!("CARGO_PKG_VERSION")).as_bytes());
    Some(crate::cache::dir()?.join("ceilings").join(format!("{}.json", &key.to_hex()[..32])))
}

/// Keeps ceilings for later. Failing to write the cache is no error.
pub fn keep(entry: &DeviceEntry) {
    let Some(ceilings) = &entry.ceilings else { return };
    let Some(path) = place(&entry.description, &entry.dtype) else { return };
    let Ok(text) = serde_json::to_string(ceilings) else { return };
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)
    });
    drop(written);
}

/// The last measured ceilings of a device with this description and compute type.
pub fn kept(description: &str, dtype: &str) -> Option<Ceilings> {
    let text = std::fs::read_to_string(place(description, dtype)?).ok()?;
    serde_json::from_str(&text).ok()
}
