//! Weights of examples as they are written -> numbers that a loss takes.

use serde::Serialize;

/// The smallest weight above 0 and the largest: with these the sums of a loss stay far from the limits of
/// f32.
const BOUNDS: [f64; 2] = [1e-20, 1e20];

/// What a weight has to be, in words.
pub(super) const EXPECTED: &str = "0, or a number from 1e-20 to 1e20";

/// The weight that a cell holds.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence that starts with the weight, and what to do about it.
pub(super) fn parse(cell: &str) -> Result<f32, [&'static str; 2]> {
    const CORRECT: &str = "correct the weight, or remove the row; 0 leaves a row out of training";
    const SCALE: &str = "multiply all weights by a constant: only their ratios count";
    let [least, most] = BOUNDS;
    match cell.trim().parse::<f64>() {
        Ok(w) if w < 0.0 => Err(["is negative", CORRECT]),
        Ok(w) if w.is_infinite() => Err(["is infinite", CORRECT]),
        Ok(w) if w > most => Err(["is too large", SCALE]),
        Ok(w) if w > 0.0 && w < least => Err(["is too small", SCALE]),
        // Adding 0 turns -0 into 0.
        Ok(w) if !w.is_nan() => Ok((w + 0.0) as f32),
        _ => Err(["is not a number", CORRECT]),
    }
}

/// The weights of a file together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WeightSummary {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// Their sum.
    pub sum: f64,
    /// Rows of weight 0, which training leaves out.
    pub zeros: usize,
}

impl WeightSummary {
    /// `None` for no weights.
    pub fn of(weights: &[f32]) -> Option<Self> {
        let first = *weights.first()?;
        Some(Self {
            min: weights.iter().copied().fold(first, f32::min),
            max: weights.iter().copied().fold(first, f32::max),
            sum: weights.iter().map(|w| f64::from(*w)).sum(),
            zeros: weights.iter().filter(|w| **w == 0.0).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_numbers_of_at_least_0() {
        for (cell, weight) in
            [("1", 1.0), (" 0.25 ", 0.25), ("2e3", 2000.0), ("0", 0.0), ("1e-20", 1e-20), ("1e20", 1e20)]
        {
            assert_eq!(parse(cell), Ok(weight), "{cell:?}");
        }
        assert_eq!(parse("-0.0").map(f32::to_bits), Ok(0));
        for (cell, why) in [
            ("-1", "is negative"),
            ("-1e-30", "is negative"),
            ("-inf", "is negative"),
            ("nan", "is not a number"),
            ("", "is not a number"),
            ("1,5", "is not a number"),
            ("true", "is not a number"),
            ("inf", "is infinite"),
            ("1e999", "is infinite"),
            ("1e21", "is too large"),
            ("1e-21", "is too small"),
        ] {
            assert_eq!(parse(cell).map_err(|[why, _]| why), Err(why), "{cell:?}");
        }
        let all = WeightSummary::of(&[0.5, 0.0, 2.0, 0.0]).unwrap();
        assert_eq!((all.min, all.max, all.sum, all.zeros), (0.0, 2.0, 2.5, 2));
        assert_eq!(WeightSummary::of(&[]), None);
    }
}
