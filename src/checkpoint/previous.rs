//! Starting over in a run folder: the previous run is moved to a subfolder, and removed once the new run has
//! a checkpoint.
//!
//! All files of the previous run are renamed into `previous-run.moving/`, which is then renamed to
//! `previous-run/`. After a kill the name says what to do. With `previous-run.moving` the move was not
//! complete and the new run wrote nothing, so its contents move back. With `previous-run` all other files
//! belong to the new run: if it has an intact checkpoint it stays, otherwise the previous run is restored.

use super::layout::{is_checkpoint, is_run_entry};
use super::manifest::CheckpointReport;
use super::names::{PREVIOUS, checkpoints, names, step_of};
use super::run::RunDir;
use super::write::unwritable;
use crate::error::{Error, Kind, Result};
use crate::files::{remove_any, sibling};
use std::path::Path;

/// The same while it is being moved.
const MOVING: &str = "previous-run.moving";

impl RunDir {
    /// Moves the files of an earlier run to a subfolder, except its `recipe.toml` if `keep_recipe`. Unless a
    /// checkpoint is saved meanwhile, they are restored when this `RunDir` is dropped, or opened again after
    /// a kill.
    ///
    /// # Errors
    /// [`Kind::Disk`] if a file cannot be moved; the earlier run is then unchanged.
    pub fn set_aside(&mut self, keep_recipe: bool) -> Result<()> {
        let entries = self.entries(keep_recipe)?;
        if entries.is_empty() {
            return Ok(());
        }
        let moving = self.path.join(MOVING);
        let set_aside = || {
            self.fs.mkdir(&moving)?;
            entries.iter().try_for_each(|n| self.fs.rename(&self.path.join(n), &moving.join(n)))?;
            self.fs.sync_dir(&moving)?;
            self.fs.sync_dir(&self.path)?;
            self.fs.rename(&moving, &self.path.join(PREVIOUS))?;
            self.fs.sync_dir(&self.path)
        };
        let done = set_aside();
        self.verified.clear();
        self.previous = true;
        done.map_err(|e| {
            let what = "cannot move the previous run to a subfolder";
            Error::io(Kind::Disk, what, &self.path, &e)
                .with_help("check the folder's permissions and the free space of its disk")
        })
    }

    /// The names of the files and folders that a run wrote here.
    fn entries(&self, keep_recipe: bool) -> Result<Vec<String>> {
        let mut entries = names(&self.path)?;
        entries.retain(|name| {
            let foreign = step_of(name).is_some() && !is_checkpoint(&self.path.join(name));
            is_run_entry(name) && !foreign && !(keep_recipe && name == "recipe.toml")
        });
        Ok(entries)
    }

    /// Removes the previous run. Call it when the new run has a checkpoint.
    ///
    /// # Errors
    /// [`Kind::Disk`] if a file cannot be removed; the next start removes the rest.
    pub fn discard_previous(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.previous) {
            return Ok(());
        }
        let previous = self.path.join(PREVIOUS);
        let gone = sibling(&previous, "tmp");
        let discard = || {
            self.fs.rename(&previous, &gone)?;
            remove_any(&*self.fs, &gone)
        };
        discard().map_err(|e| {
            Error::io(Kind::Disk, "cannot remove the previous run", &previous, &e)
                .with_help("the next start of the run removes it")
        })
    }

    /// Restores a previous run from its subfolder, or removes it if the new run has a checkpoint.
    pub(super) fn settle_previous(&mut self) -> Result<()> {
        let (moving, previous) = (self.path.join(MOVING), self.path.join(PREVIOUS));
        let there = |path: &Path| path.symlink_metadata().is_ok();
        self.previous = there(&previous);
        if self.previous {
            let saved = checkpoints(&self.path)?;
            if saved.iter().rev().any(|(_, dir)| CheckpointReport::of(dir).ok()) {
                return self.discard_previous();
            }
            let keep_recipe = !there(&previous.join("recipe.toml"));
            for name in self.entries(keep_recipe)? {
                let path = self.path.join(name);
                remove_any(&*self.fs, &path).map_err(|e| unwritable(&path, &e))?;
            }
            self.fs.rename(&previous, &moving).map_err(|e| unwritable(&previous, &e))?;
            self.previous = false;
        }
        if there(&moving) {
            let restore = || {
                for name in std::fs::read_dir(&moving)?.collect::<std::io::Result<Vec<_>>>()? {
                    self.fs.rename(&name.path(), &self.path.join(name.file_name()))?;
                }
                self.fs.sync_dir(&self.path)?;
                self.fs.remove_dir(&moving)
            };
            restore().map_err(|e| {
                Error::io(Kind::Disk, "cannot restore the previous run", &moving, &e)
                    .with_help("check the folder's permissions; the next start of the run tries again")
            })?;
        }
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The new run ended without a checkpoint. If restoring fails here, the next start tries again.
        if self.previous {
            let _ = self.settle_previous();
        }
    }
}
