// loss = scale sum v_r (p - t)^2: see src/ops/mse.rs. Constants: ROW_WEIGHTED (0 or 1).

struct Params {
    n: u32,
    cols: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> goal: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> row_weights: array<f32>;

// Element i of the loss or of its derivative, times the weight of its row; 0 for weight 0 whatever it is.
fn of_row(i: u32, x: f32) -> f32 {
    if (ROW_WEIGHTED == 1u) {
        let v = row_weights[i / p.cols];
        return select(v * x, 0.0, v == 0.0);
    }
    return x;
}

// One group.
@compute @workgroup_size(THREADS)
fn forward(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < p.n; i += THREADS) {
        let v = x[i];
        let t = goal[i];
        sum += of_row(i, (v - t) * (v - t));
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
        let d = of_row(i, scale[0] * loss[0] * 2.0 * (v - goal[i]));
        dx[i] = select(d, dx[i] + d, p.add == 1u);
    }
}
