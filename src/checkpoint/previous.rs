//! Starting over in a run folder: the previous run is moved aside, and removed only when the new one has a checkpoint.
//!
//! Everything of the previous run is renamed into `previous-run.moving/`, which is then renamed to `previous-run/`. So
//! after a kill the name tells what to do: `previous-run.moving` was not complete, and nothing new was written yet, so
//! what is in it goes back. With `previous-run`, everything else of a run in the folder belongs to the new run: it
//! stays if it has a checkpoint that verifies, and else the previous run returns.

use super::fs::{remove_any, sibling};
use super::layout::{is_checkpoint, is_run_entry};
use super::manifest::CheckpointReport;
use super::run::{RunDir, checkpoints, names, step_of};
use super::write::unwritable;
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Where the previous run is kept until the new one has a checkpoint.
pub(super) const PREVIOUS: &str = "previous-run";
/// The same while it is being moved.
const MOVING: &str = "previous-run.moving";

impl RunDir {
    /// Moves everything of an earlier run aside, except its `recipe.toml` if `keep_recipe`. It returns when this
    /// `RunDir` is dropped, or opened again after a kill, unless a checkpoint was saved in between.
    ///
    /// # Errors
    /// [`Kind::Disk`]; the earlier run is then as it was.
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
        done.map_err(|e| Error::io(Kind::Disk, "the previous run cannot be moved aside", &self.path, &e))
    }

    /// The names of what a run wrote here.
    fn entries(&self, keep_recipe: bool) -> Result<Vec<String>> {
        let mut entries = names(&self.path)?;
        entries.retain(|name| {
            let foreign = step_of(name).is_some() && !is_checkpoint(&self.path.join(name));
            is_run_entry(name) && !foreign && !(keep_recipe && name == "recipe.toml")
        });
        Ok(entries)
    }

    /// Removes the previous run, now that the new one does not need it to fall back on.
    ///
    /// # Errors
    /// [`Kind::Disk`]; what is left goes at the next start.
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
        discard().map_err(|e| Error::io(Kind::Disk, "the previous run cannot be removed", &previous, &e))
    }

    /// Brings back a previous run that was moved aside, unless the new one has a checkpoint: then it is removed.
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
            restore()
                .map_err(|e| Error::io(Kind::Disk, "the previous run cannot be restored", &moving, &e))?;
        }
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Still aside: the new run ended without a checkpoint. What fails here is done at the next start.
        if self.previous {
            let _ = self.settle_previous();
        }
    }
}
