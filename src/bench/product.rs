//! The matrix product by itself, as a linear layer without bias and activation runs it.

use super::median;
use crate::device::{Device, Pass};
use crate::error::Result;
use crate::ops::linear::{Activation, Linear};
use crate::ops::{Backward, Forward, Grad, Op};
use crate::rng::Stream;
use crate::shape::{DType, Spec};

/// Rows, columns and depth that are measured: those of MiniLM and BERT-base, and one that is large and square.
pub const SHAPES: [[usize; 3]; 5] =
    [[2048, 384, 384], [2048, 1536, 384], [2048, 384, 1536], [2048, 768, 768], [1024, 1024, 1024]];

/// One product, measured.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows, columns, depth.
    pub shape: [usize; 3],
    /// 10^9 operations a second of y = x w^T.
    pub forward: f64,
    /// 10^9 operations a second of dx = dy w and dw = dy^T x together.
    pub backward: f64,
}

/// Measures one product: the median of `repeats` runs, after one that does not count.
pub fn product(device: &Device, [m, n, k]: [usize; 3], repeats: usize) -> Result<Product> {
    let mut stream = Stream::new(1, "product", 0);
    let mut random = |rows: usize, cols: usize| {
        let v: Vec<f32> = (0..rows * cols).map(|_| stream.normal() as f32).collect();
        device.upload(DType::F32, &[rows, cols], &v)
    };
    let (x, w, dy) = (random(m, k)?, random(n, k)?, random(m, n)?);
    let op = Linear { act: Activation::None };
    let inputs = [&x.spec, &w.spec];
    let plan = op.plan(&device.caps(), &inputs)?;
    let y = plan
        .outputs
        .iter()
        .chain(&plan.saved)
        .map(|s| device.alloc(s.clone()))
        .collect::<Result<Vec<_>>>()?;
    let [dx, dw] = [(m, k), (n, k)].map(|(r, c)| device.alloc(Spec::new(DType::F32, &[r, c])));
    let (dx, dw) = (dx?, dw?);
    let (io_x, io_y): (Vec<_>, Vec<_>) = (vec![&x, &w], y.iter().collect());
    let grads = [Some(Grad { t: &dx, add: false }), Some(Grad { t: &dw, add: false })];
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for i in 0..=repeats {
        let ((), timed) = device.profiled(|| {
            device.run(|| {
                device.forward(&op, Forward { x: &io_x, y: &io_y })?;
                device.backward(&op, Backward { x: &io_x, y: &io_y, dy: &[Some(&dy)], dx: &grads })
            })
        })?;
        for t in timed.iter().filter(|_| i > 0) {
            match t.pass {
                Pass::Forward => forward.push(t.seconds),
                _ => backward.push(t.seconds),
            }
        }
    }
    let operations = 2.0 * (m * n) as f64 * k as f64;
    let rate = |seconds, times: f64| times * operations / median(seconds) / 1e9;
    Ok(Product { shape: [m, n, k], forward: rate(forward, 1.0), backward: rate(backward, 2.0) })
}
