//! The batches of the steps to come, built by a thread of its own while the device computes: two steps ahead.

use super::prepare::{self, Step, TaskRun};
use super::recipe::Recipe;
use crate::data::Batch;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Steps that are ready before they are asked for.
const AHEAD: usize = 2;

/// One step's examples and its batches, cut as the recipe says.
pub(super) struct Loaded {
    pub step: Step,
    pub batches: Vec<Batch>,
}

/// Where they come from, in order; the thread ends with it.
pub(super) struct Loader(Receiver<Result<Loaded>>);

impl Loader {
    /// From step `from` on; `ends` are the steps up to the end of each epoch.
    pub fn start(parts: Arc<Vec<TaskRun>>, recipe: &Recipe, ends: &[u64], from: u64) -> Result<Loader> {
        let (send, receive) = sync_channel(AHEAD);
        let (recipe, ends) = (recipe.clone(), ends.to_vec());
        let work = move || {
            for (index, &end) in ends.iter().enumerate() {
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                if end <= from {
                    continue;
                }
                let steps = match prepare::epoch_of(&parts, &recipe, index as u64) {
                    Ok(steps) => steps,
                    Err(e) => {
                        let _ = send.send(Err(e));
                        return;
                    }
                };
                for number in from.max(start)..end {
                    let step = steps.get((number - start) as usize).cloned().unwrap_or_default();
                    let batches = prepare::batches(&parts, &recipe, &step, number, recipe.train.max_tokens);
                    // Nobody asks any more: the run has ended.
                    if send.send(batches.map(|batches| Loaded { step, batches })).is_err() {
                        return;
                    }
                }
            }
        };
        let named = std::thread::Builder::new().name("tempra-loader".into());
        named.spawn(work).map_err(|e| {
            Error::device("the loader's thread could not be started").with_found(e.to_string())
        })?;
        Ok(Loader(receive))
    }

    /// The next step.
    pub fn next(&self) -> Result<Loaded> {
        self.0.recv().unwrap_or_else(|_| Err(Error::shape("there are no more steps to load")))
    }
}
