// y[s] = x[first token of s], or the last, or the mean over its tokens: see src/ops/pool.rs. Constant: KIND
// (0 first, 1 mean, 2 last).

struct Params {
    tokens: u32,
    cols: u32,
    seqs: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let s = i / p.cols;
    if (s >= p.seqs) {
        return;
    }
    let upto = bounds[s + 1u];
    let start = select(bounds[s], upto - 1u, KIND == 2u && upto > bounds[s]);
    let end = select(upto, min(upto, start + 1u), KIND == 0u);
    var sum = 0.0;
    for (var t = start; t < end; t++) {
        sum += x[t * p.cols + i % p.cols];
    }
    y[i] = sum / f32(max(end - start, 1u));
}

// y is dy, x is dx. The sequence of a token is found by halving.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let t = i / p.cols;
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
    var d = 0.0;
    if (t < bounds[high] && (KIND == 1u || t == select(bounds[high] - 1u, bounds[low], KIND == 0u))) {
        d = y[low * p.cols + i % p.cols];
        if (KIND == 1u) {
            d /= f32(bounds[high] - bounds[low]);
        }
    }
    x[i] = select(d, x[i] + d, p.add == 1u);
}
