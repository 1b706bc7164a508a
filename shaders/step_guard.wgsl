// total += loss; counts a step that is not finite, and picks the factors of the update: see
// src/ops/step_guard.rs. One invocation.

struct Params {
    first: u32,
    last: u32,
    // Elements of control, and of history.
    control: u32,
    history: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> loss: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: array<f32>;
@group(0) @binding(2) var<storage, read_write> control: array<f32>;
@group(0) @binding(3) var<storage, read_write> skips: array<u32>;
@group(0) @binding(4) var<storage, read_write> rates: array<f32>;
@group(0) @binding(5) var<storage, read_write> history: array<f32>;

@compute @workgroup_size(THREADS)
fn decide(@builtin(local_invocation_index) li: u32) {
    if (li > 0u) {
        return;
    }
    let all = select(sum[0] + loss[0], loss[0], p.first == 1u);
    sum[0] = all;
    if (p.last == 1u) {
        var length = control[0] * rates[1];
        if (!finite(bitcast<u32>(all)) || !finite(bitcast<u32>(length))) {
            length = nan(skips[0]);
            skips[0] += 1u;
        }
        control[0] = length;
        control[1] = rates[0];
        control[2] = rates[1];
        let factors = p.control - 3u;
        let at = 3u + factors * min(skips[0], p.history / 2u - 1u);
        for (var i = 0u; i < factors; i++) {
            control[3u + i] = rates[at + i];
        }
        let slot = 2u * u32(rates[2]);
        if (slot + 1u < p.history) {
            history[slot] = all;
            history[slot + 1u] = length;
        }
    }
}
