// total += loss; counts a step that is not finite, and picks the bias corrections: see src/ops/gate.rs. One invocation.

struct Params {
    first: u32,
    last: u32,
    // Elements of rates, and of history.
    rates: u32,
    history: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> loss: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: array<f32>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> skips: array<u32>;
@group(0) @binding(4) var<storage, read_write> rates: array<f32>;
@group(0) @binding(5) var<storage, read_write> hyper: array<f32>;
@group(0) @binding(6) var<storage, read_write> history: array<f32>;

@compute @workgroup_size(THREADS)
fn decide(@builtin(local_invocation_index) li: u32) {
    if (li > 0u) {
        return;
    }
    let all = select(sum[0] + loss[0], loss[0], p.first == 1u);
    sum[0] = all;
    if (p.last == 1u) {
        let length = norm[0] * rates[1];
        norm[0] = length;
        if (!finite(bitcast<u32>(all)) || !finite(bitcast<u32>(length))) {
            norm[0] = nan(skips[0]);
            skips[0] += 1u;
        }
        let at = 3u + 2u * min(skips[0], (p.rates - 3u) / 2u - 1u);
        hyper[0] = rates[0];
        hyper[1] = rates[at];
        hyper[2] = rates[at + 1u];
        hyper[3] = rates[1];
        let slot = 2u * u32(rates[2]);
        if (slot + 1u < p.history) {
            history[slot] = all;
            history[slot + 1u] = norm[0];
        }
    }
}
