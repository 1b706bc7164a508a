//! The gate of `--fail-under`.

use super::{Comparison, Side, Verdict};

/// What a comparison must fulfil.
#[derive(Clone, Copy, Debug)]
pub struct SpeedGate {
    /// The least speedup that passes.
    pub fail_under: f64,
    /// Whether results may lack measurements.
    pub allow_missing: bool,
}

/// The highest speedup that a gate may demand. What is above is more likely a percentage.
pub const HIGHEST: f64 = 10.0;

impl Comparison {
    /// What does not pass a gate: speedups whose whole interval is below it, rows that are not the same work,
    /// and, unless allowed, incomplete results and measurements that only one side has. Unusable measurements
    /// are not in it: see [`Comparison::unusable`].
    pub fn failures(&self, gate: &SpeedGate) -> Vec<String> {
        let (other, base) = (&self.other, &self.base);
        let below = |s: &super::Speedup| {
            let SpeedGate { fail_under, .. } = gate;
            format!("{:.3} (95 % interval {:.3} to {:.3}) is below {fail_under}", s.value, s.low, s.high)
        };
        let mut all = Vec::new();
        if self.verdict != Verdict::Unusable && self.speedup.side(gate.fail_under) == Side::Below {
            all.push(format!("{other} compared with {base}: the median speedup {}", below(&self.speedup)));
        }
        let slow = self.pairs.iter().filter(|p| p.verdict != Verdict::Unusable);
        let slow = slow.filter(|p| p.speedup.side(gate.fail_under) == Side::Below);
        all.extend(slow.map(|p| {
            format!("{other} compared with {base}: the speedup of {} {}", p.what, below(&p.speedup))
        }));
        let refused = self.refused.iter();
        all.extend(
            refused
                .map(|r| format!("{other} compared with {base}: {} is not the same work: {}", r.what, r.why)),
        );
        if !gate.allow_missing {
            all.extend(self.incomplete.iter().map(|i| format!("{} is incomplete: {}", i.device, i.why)));
            for (lacking, has) in [(other, base), (base, other)] {
                let names: Vec<&str> =
                    self.missing.iter().filter(|m| m.from == *lacking).map(|m| m.what.as_str()).collect();
                if !names.is_empty() {
                    let (n, names) = (names.len(), names.join("; "));
                    all.push(format!(
                        "{lacking} lacks {} of {has}: {names}",
                        super::counted(n, "measurement")
                    ));
                }
            }
        }
        all
    }
    /// The measurements whose uncertainty exceeds 100 %: nothing follows from them.
    pub fn unusable(&self) -> Vec<String> {
        let busy = self.pairs.iter().filter(|p| p.verdict == Verdict::Unusable);
        busy.map(|p| format!("{} compared with {}: {}: {}", self.other, self.base, p.what, p.why_unusable()))
            .collect()
    }
}
