//! How fast the kernels are here: a training step op by op, and the matrix product by itself.

mod product;
mod step;

pub use product::{Product, SHAPES, product};
pub use step::{Setting, StepReport, Work, step};

/// The value in the middle; NaN of none.
fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}
