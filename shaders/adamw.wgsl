// AdamW over a flat arena: see src/ops/adamw.rs. One group a task of the table; 512 elements a bit of `live`.

struct Params {
    beta1: f32,
    beta2: f32,
    eps: f32,
    max_norm: f32,
}
var<immediate> p: Params;

struct Task {
    start: u32,
    len: u32,
    // Weight decay and the factor on the learning rate.
    decay: f32,
    rate: f32,
}

@group(0) @binding(0) var<storage, read_write> value: array<f32>;
@group(0) @binding(1) var<storage, read_write> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
// lr, c1, c2, unscale.
@group(0) @binding(4) var<storage, read_write> hyper: array<f32>;
@group(0) @binding(5) var<storage, read_write> norm: array<f32>;
@group(0) @binding(6) var<storage, read_write> live: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> table: array<Task>;

@compute @workgroup_size(THREADS)
fn update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
        @builtin(local_invocation_index) li: u32) {
    let index = group.x + group.y * count.x;
    if (index >= arrayLength(&table) || !finite(bitcast<u32>(norm[0]))) {
        return;
    }
    let task = table[index];
    var clip = 1.0;
    if (p.max_norm > 0.0) {
        clip = min(1.0, p.max_norm / (norm[0] + 1e-6));
    }
    clip *= hyper[3];
    let lr = hyper[0] * task.rate;
    let keep = 1.0 - lr * task.decay;
    let rate = lr / hyper[1];
    let root = sqrt(hyper[2]);
    var touched = 0u;
    for (var e = li; e < task.len; e += THREADS) {
        let i = task.start + e;
        let g = grad[i] * clip;
        if (grad[i] != 0.0) {
            touched |= 1u << (e / 512u);
        }
        let first = m[i] + (1.0 - p.beta1) * (g - m[i]);
        let second = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
        m[i] = first;
        v[i] = second;
        value[i] = value[i] * keep - rate * first / (sqrt(second) / root + p.eps);
    }
    if (touched != 0u) {
        atomicOr(&live[index], touched);
    }
}
