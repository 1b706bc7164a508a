//! Runs that are queued together and timed as one sample.
//!
//! A short kernel runs faster than the host launches it. Without a CUDA graph the sample would measure the
//! host's launch rate. Therefore consecutive runs are captured as CUDA graphs on NVIDIA GPUs, and a sample
//! times launches of graphs. wgpu needs nothing like that: all runs of a sample are one command buffer, which
//! is submitted when it is complete. On a CPU there is nothing to launch.

use super::measure::{Workbench, timer};
use crate::device::Device;
use crate::device::cuda::{Captured, Cuda};
use crate::error::Result;
use std::collections::HashMap;

/// The largest number of runs in one CUDA graph, and of graph launches or runs in one sample.
pub(super) const RUNS: usize = 64;

/// Queues consecutive runs on sets of operands that are used in turn.
pub(super) struct Queue<'a> {
    bench: &'a Workbench<'a>,
    sets: usize,
    run: &'a (dyn Fn(usize) -> Result<()> + Sync),
    /// The index of the next run; its set is the index modulo the number of sets.
    next: usize,
    graphs: Option<Graphs<'a>>,
}

/// Captured runs.
struct Graphs<'a> {
    gpu: &'a Cuda,
    /// The number of runs in each graph.
    runs: usize,
    /// By the set of the first run.
    captured: HashMap<usize, Captured>,
}

impl<'a> Queue<'a> {
    /// A queue of `run(i)` on `sets` sets of operands, where i is the index of the run, from `next` on.
    pub fn new(
        bench: &'a Workbench<'a>,
        sets: usize,
        next: usize,
        run: &'a (dyn Fn(usize) -> Result<()> + Sync),
    ) -> Queue<'a> {
        Queue { bench, sets: sets.max(1), run, next, graphs: None }
    }

    /// Captures about `runs` consecutive runs in each CUDA graph from now on. Returns the number of runs in a
    /// graph, and `None` where runs are launched one by one.
    ///
    /// # Errors
    /// Those of the device.
    pub fn capture(&mut self, runs: usize) -> Result<Option<usize>> {
        let Device::Cuda(gpu) = self.bench.device else { return Ok(None) };
        let runs = runs.clamp(1, RUNS);
        // A graph that uses sets more than once uses all of them equally often, so that no set follows itself
        // while it is in the cache.
        let runs = match runs.div_ceil(self.sets) {
            1 => runs,
            turns => self.sets * turns.min(RUNS / self.sets).max(1),
        };
        self.graphs = Some(Graphs { gpu, runs, captured: HashMap::new() });
        let start = self.next % self.sets;
        if !self.captured(start)? {
            self.graphs = None;
        }
        Ok(self.graphs.as_ref().map(|g| g.runs))
    }

    /// Captures the runs from a set on, unless that was done before. Returns whether they are captured.
    fn captured(&mut self, start: usize) -> Result<bool> {
        let Some(graphs) = &mut self.graphs else { return Ok(false) };
        if graphs.captured.contains_key(&start) {
            return Ok(true);
        }
        let (run, end) = (self.run, start + graphs.runs);
        let captured = graphs.gpu.capture(|| (start..end).try_for_each(run))?;
        Ok(captured.map(|captured| graphs.captured.insert(start, captured)).is_some())
    }

    /// The first sets of the next `count` graphs, which are captured. Empty, also from then on, if one cannot
    /// be captured.
    fn starts(&mut self, count: usize) -> Result<Vec<usize>> {
        let runs = self.graphs.as_ref().map_or(0, |g| g.runs);
        let starts: Vec<usize> = (0..count).map(|i| (self.next + i * runs) % self.sets).collect();
        for &start in &starts {
            if !self.captured(start)? {
                self.graphs = None;
                return Ok(Vec::new());
            }
        }
        Ok(starts)
    }

    /// The time of the next `runs` runs in seconds, by the device's own clock if it has one.
    ///
    /// # Errors
    /// Those of the device; [`Kind::Interrupted`](crate::error::Kind::Interrupted) after a signal.
    pub fn seconds(&mut self, runs: usize) -> Result<f64> {
        let (mut seconds, mut left) = (0.0, runs);
        while left > 0 {
            self.bench.check()?;
            let whole = self.graphs.as_ref().map_or(0, |g| (left / g.runs).min(RUNS));
            let starts = self.starts(whole)?;
            let done = match &mut self.graphs {
                Some(Graphs { gpu, runs, captured }) if !starts.is_empty() => {
                    let mut work = || {
                        starts.iter().try_for_each(|start| match captured.get_mut(start) {
                            Some(graph) => gpu.launch_captured(graph),
                            None => Ok(()),
                        })
                    };
                    seconds += self.bench.clock().time(self.bench.device, &mut work)?;
                    starts.len() * *runs
                }
                _ => {
                    let (some, from, run) = (left.min(RUNS), self.next, self.run);
                    seconds += self
                        .bench
                        .clock()
                        .time(self.bench.device, &mut || (from..from + some).try_for_each(run))?;
                    some
                }
            };
            (self.next, left) = (self.next + done, left - done);
        }
        Ok(seconds)
    }

    /// Runs once on the set that was used last, without timing it and without a CUDA graph. What other work
    /// took from the caches, code and constants included, comes back.
    ///
    /// # Errors
    /// Those of the device.
    pub fn refresh(&self) -> Result<()> {
        let (last, run) = (self.next + self.sets - 1, self.run);
        self.bench.clock().time(self.bench.device, &mut || run(last)).map(drop)
    }

    /// How samples are taken from now on, in words.
    pub fn timing(&self) -> String {
        let timer = timer(self.bench.device);
        match (&self.graphs, self.bench.device) {
            (Some(graphs), _) => format!("CUDA graphs of {} runs, {timer}", graphs.runs),
            (None, Device::Cuda(_)) => format!("kernel launches, {timer}"),
            (None, Device::Wgpu(_)) => format!("one command buffer, {timer}"),
            (None, _) => timer.to_owned(),
        }
    }

    /// Discards the captured runs.
    ///
    /// # Errors
    /// Those of the device.
    pub fn finish(self) -> Result<()> {
        match self.graphs {
            Some(graphs) => graphs.gpu.release(graphs.captured.into_values().collect()),
            None => Ok(()),
        }
    }
}
