//! FAVOR+ in place of the exact attention of an encoder (Choromanski et al. 2021): the same weights, random
//! features that are drawn anew now and then while it is trained, and stay as they are while it is used.

use super::Inputs;
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::ops::attention::Attention;
use crate::ops::favor::{Favor, default_features, features};
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::sync::{Mutex, PoisonError};

/// Which random features: with their number of draws they are a function of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerformerConfig {
    /// How many of them.
    pub features: usize,
    /// Optimizer steps after which they are drawn anew; 0: never.
    pub redraw: u64,
    /// What they are drawn from.
    pub seed: u64,
    /// How often they had been drawn anew when training began.
    pub draw: u64,
}

impl PerformerConfig {
    /// As many features as approximate heads of this width well, d ln d, redrawn every 1000 steps.
    pub fn of(head_dim: usize, seed: u64) -> PerformerConfig {
        PerformerConfig { features: default_features(head_dim), redraw: 1000, seed, draw: 0 }
    }
}

/// How far approximated attention was from exact attention in one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Sum of the squares of the differences of their outputs.
    pub error: f64,
    /// Sum of the squares of the exact outputs.
    pub exact: f64,
}

impl Distance {
    /// The relative error, in L2; 0 in a layer without heads, where nothing is approximated.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.exact).sqrt() }
    }
}

/// The features of all layers of an encoder, on its device.
pub(super) struct Performer {
    config: PerformerConfig,
    state: Mutex<FeatureState>,
}

struct FeatureState {
    draw: u64,
    /// For each layer, (features, head_dim).
    features: Vec<Tensor>,
    /// For each layer, while somebody compares.
    distances: Option<Vec<Distance>>,
}

impl Performer {
    /// Draws the features of layers with heads of these widths, in the type of sums where parameters are of
    /// `dtype`.
    pub fn new(
        device: &Device,
        config: PerformerConfig,
        head_dims: &[usize],
        dtype: DType,
    ) -> Result<Performer> {
        let features = head_dims
            .iter()
            .map(|&dim| device.zeros(crate::ops::accumulator(dtype), &[config.features, dim]))
            .collect::<Result<Vec<_>>>()?;
        let state = Mutex::new(FeatureState { draw: config.draw, features, distances: None });
        let performer = Performer { config, state };
        performer.write(device, config.draw)?;
        Ok(performer)
    }
    /// The setting, with the draw that is in use.
    pub fn config(&self) -> PerformerConfig {
        PerformerConfig { draw: self.state().draw, ..self.config }
    }
    fn state(&self) -> std::sync::MutexGuard<'_, FeatureState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self, device: &Device, draw: u64) -> Result<()> {
        let mut state = self.state();
        for (layer, t) in state.features.iter().enumerate() {
            let w = features(self.config.seed, layer, draw, [self.config.features, t.spec.rows_cols().1]);
            if t.spec.dtype == DType::F64 {
                device.write(t, &w.iter().map(|&v| v as f64).collect::<Vec<f64>>())?;
            } else {
                device.write(t, &w)?;
            }
        }
        state.draw = draw;
        Ok(())
    }
    /// Takes the features of a draw, if they are not there already. The tensors stay where they are.
    pub fn take(&self, device: &Device, draw: u64) -> Result<()> {
        if draw == self.state().draw { Ok(()) } else { self.write(device, draw) }
    }
    /// Takes the features that a step of training has.
    pub fn begin_step(&self, device: &Device, step: u64) -> Result<()> {
        let redrawn = step.checked_div(self.config.redraw).unwrap_or(0);
        self.take(device, self.config.draw + redrawn)
    }
    /// Attention over qkv (tokens, 3 heads head_dim) -> (tokens, heads head_dim).
    pub fn mix(
        &self,
        tape: &mut Tape,
        batch: &Inputs,
        layer: usize,
        heads: usize,
        scale: f32,
        qkv: Var,
    ) -> Result<Var> {
        let w = self.state().features[layer].clone();
        let w = tape.constant(w);
        let bounds = &batch.cu_seqlens;
        // Only a comparison reads the queries, keys and values again.
        let again = self.state().distances.is_some().then(|| qkv.clone());
        let mixed = tape.apply(Favor { heads, scale }, [qkv, bounds.clone(), w])?;
        if let Some(qkv) = again {
            let op = Attention { heads, scale, dropout: None, window: None };
            let exact = tape.apply(op, [qkv, bounds.clone()])?;
            let read = |v: &Var| tape.device().read_reals(v.value());
            let (found, truth) = (read(&mixed)?, read(&exact)?);
            if let Some(d) = self.state().distances.as_mut().and_then(|all| all.get_mut(layer)) {
                d.error += found.iter().zip(&truth).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
                d.exact += truth.iter().map(|b| b * b).sum::<f64>();
            }
        }
        Ok(mixed)
    }
    /// The distances of all layers over what `run` runs.
    pub fn compared(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        let layers = self.state().features.len();
        self.state().distances = Some(vec![Distance::default(); layers]);
        let done = run();
        let found = self.state().distances.take().unwrap_or_default();
        done.map(|()| found)
    }
}
