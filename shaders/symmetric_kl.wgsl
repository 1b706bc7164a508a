// loss = scale sum_i w_i (KL(p_i || q_i) + KL(q_i || p_i)) / 2: see src/ops/symmetric_kl.rs.

struct Params {
    rows: u32,
    classes: u32,
    // In the backward pass: which logits `a` are, the first (0) or the second (1); `b` are the others.
    own: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
// (4, rows): log sum exp of the first and of the second logits, KL(p || q), KL(q || p).
@group(0) @binding(4) var<storage, read_write> saved: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
// The loss of each row; in the backward pass: da.
@group(0) @binding(6) var<storage, read_write> each: array<f32>;

// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
fn times(x: f32, y: f32) -> f32 {
    if (x == 0.0) {
        return 0.0;
    }
    return x * y;
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    var most = vec2<f32>(-3.0e38);
    for (var c = 0u; c < p.classes; c++) {
        most = max(most, vec2<f32>(a[at + c], b[at + c]));
    }
    var sums = vec2<f32>(0.0);
    for (var c = 0u; c < p.classes; c++) {
        sums += exp(vec2<f32>(a[at + c], b[at + c]) - most);
    }
    let lse = most + log(sums);
    var sum = 0.0;
    var ab = 0.0;
    var ba = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        let logs = vec2<f32>(a[at + c], b[at + c]) - lse;
        let probs = exp(logs);
        let d = logs.x - logs.y;
        sum += times(probs.x - probs.y, d);
        ab += times(probs.x, d);
        ba += times(probs.y, -d);
    }
    saved[row] = lse.x;
    saved[p.rows + row] = lse.y;
    saved[2u * p.rows + row] = ab;
    saved[3u * p.rows + row] = ba;
    each[row] = times(weights[row], 0.5 * sum);
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

// da_c = dloss scale w / 2 (p_c (d_c - KL(p || q)) + p_c - q_c).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    let lse = vec2<f32>(saved[p.own * p.rows + row], saved[(1u - p.own) * p.rows + row]);
    let kl = saved[(2u + p.own) * p.rows + row];
    let rate = scale[0] * loss[0] * 0.5 * weights[row];
    for (var c = 0u; c < p.classes; c++) {
        let logs = vec2<f32>(a[at + c], b[at + c]) - lse;
        let probs = exp(logs);
        let d = times(rate, times(probs.x, logs.x - logs.y - kl) + (probs.x - probs.y));
        each[at + c] = select(d, each[at + c] + d, p.add == 1u);
    }
}
