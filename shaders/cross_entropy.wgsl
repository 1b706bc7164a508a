// loss = scale sum_i sum_c q_ic (lse_i - logits_ic): see src/ops/cross_entropy.rs. Constants: HARD, WEIGHTED (0 or 1).

struct Params {
    rows: u32,
    classes: u32,
    ignore: u32,
    smoothing: f32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
// Labels, or the bits of soft labels.
@group(0) @binding(1) var<storage, read_write> target_bits: array<u32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
// The loss of each row; in the backward pass: dlogits.
@group(0) @binding(6) var<storage, read_write> each: array<f32>;

fn q(row: u32, c: u32) -> f32 {
    var t = 0.0;
    if (HARD == 1u) {
        let label = target_bits[row];
        if (label == p.ignore) {
            return 0.0;
        }
        t = select(0.0, 1.0, label == c);
    } else {
        t = bitcast<f32>(target_bits[row * p.classes + c]);
    }
    let v = (1.0 - p.smoothing) * t + p.smoothing / f32(p.classes);
    if (WEIGHTED == 1u) {
        return v * weights[c];
    }
    return v;
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    var most = -3.0e38;
    for (var c = 0u; c < p.classes; c++) {
        most = max(most, logits[at + c]);
    }
    var sum = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        sum += exp(logits[at + c] - most);
    }
    let norm = most + log(sum);
    lse[row] = norm;
    sum = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        let v = q(row, c);
        // An infinite logit of a class that does not count is no NaN.
        if (v != 0.0) {
            sum += v * (norm - logits[at + c]);
        }
    }
    if (HARD == 1u && target_bits[row] >= p.classes && target_bits[row] != p.ignore) {
        sum = nan(row);
    }
    each[row] = sum;
}

var<workgroup> parts: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var r = li; r < p.rows; r += THREADS) {
        sum += each[r];
    }
    parts[li] = sum;
    workgroupBarrier();
    if (li == 0u) {
        sum = 0.0;
        for (var i = 0u; i < THREADS; i++) {
            sum += parts[i];
        }
        loss[0] = scale[0] * sum;
    }
}

// dlogits_ic = dloss scale (softmax_ic sum_k q_ik - q_ic).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    let rate = scale[0] * loss[0];
    var sum = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        sum += q(row, c);
    }
    for (var c = 0u; c < p.classes; c++) {
        let d = rate * (exp(logits[at + c] - lse[row]) * sum - q(row, c));
        each[at + c] = select(d, each[at + c] + d, p.add == 1u);
    }
}
