// loss = scale sum_i v_i sum_c q_ic (1 - p_ic)^gamma (lse_i - logits_ic): see src/ops/cross_entropy.rs.
// Constants: HARD, WEIGHTED, FOCAL, ROW_WEIGHTED (0 or 1).

struct Params {
    rows: u32,
    classes: u32,
    ignore: u32,
    smoothing: f32,
    gamma: f32,
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
@group(0) @binding(7) var<storage, read_write> row_weights: array<f32>;

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

// (1 - p)^gamma, p and 1 - p of a class with -ln p = l; rounding may put p above 1, of which there is no
// power.
fn focus(l: f32) -> vec3<f32> {
    let prob = exp(-l);
    let rest = 1.0 - prob;
    var power = 0.0;
    if (!(rest <= 0.0)) {
        power = exp(p.gamma * log(rest));
    }
    return vec3<f32>(power, prob, rest);
}

// -p dloss/dp of a class: q, with a focus q (1 - p)^gamma (1 + gamma p l / (1 - p)).
fn pull(row: u32, c: u32, l: f32) -> f32 {
    let v = q(row, c);
    if (FOCAL == 0u || v == 0.0) {
        return v;
    }
    let f = focus(l);
    // The second factor has its limits where it is 0 / 0 or 0 times infinity.
    if (f.x == 0.0 || f.y == 0.0) {
        return v * f.x;
    }
    return v * f.x * (1.0 + p.gamma * f.y * l / f.z);
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
            let l = norm - logits[at + c];
            if (FOCAL == 1u) {
                sum += v * focus(l).x * l;
            } else {
                sum += v * l;
            }
        }
    }
    if (ROW_WEIGHTED == 1u) {
        // Whatever the loss of a row of weight 0 is, it does not count.
        let v = row_weights[row];
        sum = select(v * sum, 0.0, v == 0.0);
    }
    if (HARD == 1u && target_bits[row] >= p.classes && target_bits[row] != p.ignore) {
        sum = nan(row);
    }
    each[row] = sum;
}

@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var r = li; r < p.rows; r += THREADS) {
        sum += each[r];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = scale[0] * sum;
    }
}

// dlogits_ic = dloss scale v_i (p_ic sum_k h_ik - h_ic), h what a class pulls with.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    var rate = scale[0] * loss[0];
    if (ROW_WEIGHTED == 1u) {
        let v = row_weights[row];
        if (v == 0.0) {
            for (var c = 0u; c < p.classes; c++) {
                each[at + c] = select(0.0, each[at + c], p.add == 1u);
            }
            return;
        }
        rate *= v;
    }
    var sum = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        sum += pull(row, c, lse[row] - logits[at + c]);
    }
    for (var c = 0u; c < p.classes; c++) {
        let l = lse[row] - logits[at + c];
        let d = rate * (exp(-l) * sum - pull(row, c, l));
        each[at + c] = select(d, each[at + c] + d, p.add == 1u);
    }
}
