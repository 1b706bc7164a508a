// loss = scale sum (p - t)^2: see src/ops/mse.rs.

struct Params {
    n: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> goal: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

// One group.
@compute @workgroup_size(THREADS)
fn forward(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < p.n; i += THREADS) {
        let v = x[i];
        let t = goal[i];
        sum += (v - t) * (v - t);
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = scale[0] * sum;
    }
}

@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i < p.n) {
        let v = x[i];
        let d = scale[0] * loss[0] * 2.0 * (v - goal[i]);
        dx[i] = select(d, dx[i] + d, p.add == 1u);
    }
}
