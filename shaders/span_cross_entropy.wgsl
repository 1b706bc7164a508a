// loss = scale / 2 sum_s sum_k (lse_sk - logits[target_sk, k]): see src/ops/span_cross_entropy.rs.

struct Params {
    tokens: u32,
    seqs: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;
@group(0) @binding(2) var<storage, read_write> goal: array<u32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
// The loss of each sequence and column; in the backward pass: dlogits.
@group(0) @binding(6) var<storage, read_write> each: array<f32>;

// One invocation a sequence and column.
@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let item = flat(group, count, li);
    let s = item / 2u;
    let k = item % 2u;
    if (s >= p.seqs) {
        return;
    }
    let start = bounds[s];
    let end = bounds[s + 1u];
    var most = -3.0e38;
    for (var t = start; t < end; t++) {
        most = max(most, logits[t * 2u + k]);
    }
    var sum = 0.0;
    for (var t = start; t < end; t++) {
        sum += exp(logits[t * 2u + k] - most);
    }
    let norm = most + log(sum);
    lse[item] = norm;
    let at = goal[item];
    var v = 0.0;
    if (at < end - start) {
        v = norm - logits[(start + at) * 2u + k];
    }
    each[item] = v;
}

// One group.
@compute @workgroup_size(THREADS)
fn sum_all(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < 2u * p.seqs; i += THREADS) {
        sum += each[i];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = scale[0] * 0.5 * sum;
    }
}

// The sequence of a token is found by halving; a token beyond the last one has no gradient.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let t = flat(group, count, li);
    if (t >= p.tokens) {
        return;
    }
    var low = 0u;
    var high = p.seqs;
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (bounds[middle] <= t) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let rate = 0.5 * scale[0] * loss[0];
    for (var k = 0u; k < 2u; k++) {
        let i = t * 2u + k;
        var d = 0.0;
        if (t < bounds[high]) {
            let at = goal[2u * low + k];
            if (at < bounds[high] - bounds[low]) {
                d = rate * (exp(logits[i] - lse[2u * low + k]) - select(0.0, 1.0, t == bounds[low] + at));
            }
        }
        each[i] = select(d, each[i] + d, p.add == 1u);
    }
}
