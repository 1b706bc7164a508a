//! candle on the ops and the step that `tempra bench` measures, on the CPU, as the same JSON: see ../peer.rs.
//!
//! What candle has no differentiable op for is written as its users write it. Its fused softmax and layer
//! norm record no backward pass (`apply_op1_no_bwd`, `apply_op3_no_bwd`), so training takes `ops::softmax`
//! and `ops::layer_norm_slow`.

#[path = "../../peer.rs"]
mod peer;

use candle_core::{backprop::GradStore, DType, Device, Tensor, Var, D};
use candle_nn::{loss, ops, Embedding, Linear, Module, Optimizer, ParamsAdamW};
use peer::*;
use std::any::Any;
use std::cell::RefCell;
use std::time::Instant;

struct Candle {
    random: Random,
    /// Of the embedding: all sets share them.
    tables: Vec<Var>,
}

const CPU: Device = Device::Cpu;

impl Candle {
    fn var(&mut self, shape: &[usize], bound: f32) -> Result<Var> {
        let values = self.random.reals(shape.iter().product(), bound);
        Ok(Var::from_tensor(&Tensor::from_vec(values, shape, &CPU)?)?)
    }
    fn ints(&mut self, n: usize, bound: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.random.ints(n, bound), n, &CPU)?)
    }
}

fn optimizer(vars: Vec<Var>) -> Result<candle_nn::AdamW> {
    let settings = ParamsAdamW { lr: LR, weight_decay: WEIGHT_DECAY, ..ParamsAdamW::default() };
    Ok(candle_nn::AdamW::new(vars, settings)?)
}

/// The gradients that a backward pass would leave, for an optimizer to clear: a store cannot be made empty.
fn gradients(var: &Var, of: &Tensor) -> Result<GradStore> {
    let mut store = var.zeros_like()?.sum_all()?.backward()?;
    store.insert(var, of.clone());
    Ok(store)
}

fn norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> candle_core::Result<Tensor> {
    ops::layer_norm_slow(x, gain, bias, EPS as f32)
}

fn dropout(x: &Tensor) -> candle_core::Result<Tensor> {
    ops::dropout(x, DROPOUT as f32)
}

/// q, k, v (tokens, hidden) in sequences of one length, as candle-transformers' BERT has it.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, length: usize) -> candle_core::Result<Tensor> {
    let (tokens, hidden) = q.dims2()?;
    let split = |x: &Tensor| {
        let x = x.reshape((tokens / length, length, HEADS, hidden / HEADS))?;
        x.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = (q.matmul(&k.t()?)? / ((hidden / HEADS) as f64).sqrt())?;
    let weights = dropout(&ops::softmax(&scores, D::Minus1)?)?;
    weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((tokens, hidden))
}

impl Library for Candle {
    type Graph = Tensor;

    fn tool(&self) -> String {
        "candle 0.11.1 cpu".to_owned()
    }

    fn matmul(&self, side: usize) -> Result<Pass<Tensor>> {
        let mut random = Random(side as u64);
        let mut square = || Tensor::from_vec(random.reals(side * side, 1.0), (side, side), &CPU);
        let (x, w) = (square()?, square()?);
        Ok(Box::new(move || Ok(x.matmul(&w.t()?)?)))
    }

    fn job(&mut self, job: &Job) -> Result<Pass<Tensor>> {
        let first = job.shapes[0][0];
        if let Kind::Embed = job.kind {
            if self.tables.is_empty() {
                self.tables = job.shapes[3..].iter().map(|s| self.var(s, 1.0)).collect::<Result<_>>()?;
            }
            let ids =
                [VOCAB, POSITIONS, 2].into_iter().map(|n| self.ints(first, n)).collect::<Result<Vec<_>>>()?;
            let layers: Vec<_> =
                self.tables.iter().map(|t| Embedding::new(t.as_tensor().clone(), HIDDEN)).collect();
            return Ok(Box::new(move || {
                let [word, position, kind] = [0, 1, 2].map(|i| layers[i].forward(&ids[i]));
                Ok(((word? + position?)? + kind?)?)
            }));
        }
        if let Kind::CrossEntropy = job.kind {
            let (logits, targets) = (self.var(&job.shapes[0], 1.0)?, self.ints(first, job.shapes[0][1])?);
            return Ok(Box::new(move || Ok(loss::cross_entropy(&logits, &targets)?)));
        }
        let x = job.shapes.iter().map(|s| self.var(s, 1.0)).collect::<Result<Vec<_>>>()?;
        Ok(match job.kind {
            Kind::Linear { gelu } => {
                let layer = Linear::new(x[1].as_tensor().clone(), Some(x[2].as_tensor().clone()));
                Box::new(move || {
                    let y = layer.forward(&x[0])?;
                    Ok(if gelu { y.gelu_erf()? } else { y })
                })
            }
            Kind::Block => Box::new(move || Ok(norm(&(dropout(&x[0])? + x[3].as_tensor())?, &x[1], &x[2])?)),
            Kind::Embeddings => Box::new(move || Ok(dropout(&norm(&x[0], &x[1], &x[2])?)?)),
            Kind::Attention { length } => Box::new(move || Ok(attention(&x[0], &x[1], &x[2], length)?)),
            Kind::Pool { length } => {
                Box::new(move || Ok(x[0].reshape((first / length, length, HIDDEN))?.mean(1)?))
            }
            Kind::AdamW => {
                let of = Tensor::from_vec(self.random.reals(first, 1.0), first, &CPU)?;
                let gradients = gradients(&x[0], &of)?;
                let optimizer = RefCell::new(optimizer(x)?);
                Box::new(move || {
                    optimizer.borrow_mut().step(&gradients)?;
                    Ok(of.clone())
                })
            }
            Kind::GlobalNorm => {
                let of = x[0].as_detached_tensor();
                Box::new(move || Ok(of.sqr()?.sum_all()?.sqrt()?))
            }
            Kind::Embed | Kind::CrossEntropy => return Err("is done above".into()),
        })
    }

    fn backward(&self, graph: Tensor) -> Result<Box<dyn Any>> {
        let gradients = graph.backward()?;
        Ok(Box::new((graph, gradients)))
    }

    fn training(&mut self, sequences: usize, length: usize) -> Result<Step> {
        let tokens = sequences * length;
        let model = Bert::new(self)?;
        let ids = (0..4).map(|_| self.ints(tokens, VOCAB)).collect::<Result<Vec<_>>>()?;
        let at: Vec<u32> = (0..tokens).map(|i| (i % length) as u32).collect();
        let positions = Tensor::from_vec(at, tokens, &CPU)?;
        let types = Tensor::zeros(tokens, DType::U32, &CPU)?;
        let classes: Vec<u32> = (0..sequences as u32).map(|i| i % 2).collect();
        let classes = Tensor::from_vec(classes, sequences, &CPU)?;
        let mut adamw = optimizer(model.vars.clone())?;
        Ok(Box::new(move |i| {
            let begun = Instant::now();
            let logits = model.forward([&ids[i % 4], &positions, &types], length)?;
            let loss = loss::cross_entropy(&logits, &classes)?;
            let forward = begun.elapsed().as_secs_f64();
            let mut gradients = loss.backward()?;
            let backward = begun.elapsed().as_secs_f64();
            clip(&model.vars, &mut gradients)?;
            adamw.step(&gradients)?;
            Ok([forward, backward - forward, begun.elapsed().as_secs_f64() - backward])
        }))
    }

    fn notes(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "fused softmax, layer norm and attention",
            "candle-nn records no backward pass for them; the rows are of the slow ones, which have one",
        )]
    }
}

/// Gradients scaled to a norm of 1 at most. candle-nn has no clipping; this is what its users write.
fn clip(vars: &[Var], gradients: &mut GradStore) -> Result<()> {
    let mut squares = 0.0;
    for v in vars {
        let g = gradients.get(v).ok_or("a parameter got no gradient")?;
        squares += f64::from(g.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let scale = 1.0 / squares.sqrt();
    if scale < 1.0 {
        for v in vars {
            if let Some(g) = gradients.remove(v) {
                gradients.insert(v, (g * scale)?);
            }
        }
    }
    Ok(())
}

/// BERT with a pooler and two classes. candle-transformers' own drops nothing out and norms without a
/// backward pass.
struct Bert {
    vars: Vec<Var>,
    tables: Vec<Embedding>,
    norm: [Tensor; 2],
    layers: Vec<Layer>,
    pooler: Linear,
    classifier: Linear,
}

struct Layer {
    /// Query, key, value, output, up, down.
    linear: Vec<Linear>,
    /// After attention, after the feed-forward block.
    norms: Vec<[Tensor; 2]>,
}

impl Bert {
    fn new(candle: &mut Candle) -> Result<Bert> {
        let mut vars = Vec::new();
        let mut weight = |shape: &[usize]| -> Result<Tensor> {
            // As uneven as normal numbers of 0.02, which BERT begins with.
            let var = candle.var(shape, 0.02 * 3f32.sqrt())?;
            vars.push(var.clone());
            Ok(var.as_tensor().clone())
        };
        let tables = [VOCAB, POSITIONS, 2]
            .into_iter()
            .map(|n| Ok(Embedding::new(weight(&[n, HIDDEN])?, HIDDEN)))
            .collect::<Result<_>>()?;
        let mut linear = |k: usize, n: usize| Ok(Linear::new(weight(&[n, k])?, Some(weight(&[n])?)));
        let (h, f) = (HIDDEN, INTERMEDIATE);
        let mut layers = Vec::new();
        for _ in 0..LAYERS {
            let shapes = [(h, h), (h, h), (h, h), (h, h), (h, f), (f, h)];
            let linear = shapes.into_iter().map(|(k, n)| linear(k, n)).collect::<Result<_>>()?;
            layers.push(Layer { linear, norms: Vec::new() });
        }
        let (pooler, classifier) = (linear(h, h)?, linear(h, 2)?);
        let mut norm = || -> Result<[Tensor; 2]> {
            let (gain, bias) = (Var::ones(h, DType::F32, &CPU)?, Var::zeros(h, DType::F32, &CPU)?);
            vars.extend([gain.clone(), bias.clone()]);
            Ok([gain.as_tensor().clone(), bias.as_tensor().clone()])
        };
        for layer in &mut layers {
            layer.norms = vec![norm()?, norm()?];
        }
        let norm = norm()?;
        Ok(Bert { vars, tables, norm, layers, pooler, classifier })
    }

    fn forward(&self, ids: [&Tensor; 3], length: usize) -> candle_core::Result<Tensor> {
        let [word, position, kind] = [0, 1, 2].map(|i| self.tables[i].forward(ids[i]));
        let x = ((word? + position?)? + kind?)?;
        let mut x = dropout(&norm(&x, &self.norm[0], &self.norm[1])?)?;
        for Layer { linear, norms } in &self.layers {
            let [q, k, v] = [0, 1, 2].map(|i| linear[i].forward(&x));
            let mixed = linear[3].forward(&attention(&q?, &k?, &v?, length)?)?;
            x = norm(&(dropout(&mixed)? + x)?, &norms[0][0], &norms[0][1])?;
            let wide = linear[4].forward(&x)?.gelu_erf()?;
            x = norm(&(dropout(&linear[5].forward(&wide)?)? + x)?, &norms[1][0], &norms[1][1])?;
        }
        let sequences = x.dim(0)? / length;
        let first = x.reshape((sequences, length, HIDDEN))?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        self.classifier.forward(&dropout(&self.pooler.forward(&first)?.tanh()?)?)
    }
}

fn main() {
    peer::main(|| Ok(Candle { random: Random(6), tables: Vec::new() }));
}
