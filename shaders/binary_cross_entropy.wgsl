// loss = scale sum_rc v_r w_c (t (1 - p)^gamma a + (1 - t) p^gamma b), a = -ln p, b = -ln (1 - p).
// See src/ops/binary_cross_entropy.rs. Constants: WEIGHTED, FOCAL, ROW_WEIGHTED (0 or 1).

struct Params {
    n: u32,
    classes: u32,
    add: u32,
    gamma: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> goal: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> row_weights: array<f32>;

fn weight(i: u32) -> f32 {
    if (WEIGHTED == 1u) {
        return weights[i % p.classes];
    }
    return 1.0;
}

// Element i of the loss or of its derivative, times the weight of its row; 0 for weight 0 whatever it is.
fn of_row(i: u32, x: f32) -> f32 {
    if (ROW_WEIGHTED == 1u) {
        let v = row_weights[i / p.classes];
        return select(v * x, 0.0, v == 0.0);
    }
    return x;
}

// a and b.
fn surprises(v: f32) -> vec2<f32> {
    return max(vec2<f32>(-v, v), vec2<f32>(0.0)) + log(1.0 + exp(-abs(v)));
}

// One group.
@compute @workgroup_size(THREADS)
fn forward(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < p.n; i += THREADS) {
        let v = x[i];
        let t = goal[i];
        if (FOCAL == 1u) {
            let s = surprises(v);
            sum += of_row(i, weight(i) * (t * exp(-p.gamma * s.y) * s.x + (1.0 - t) * exp(-p.gamma * s.x) * s.y));
        } else {
            sum += of_row(i, weight(i) * (max(v, 0.0) - v * t + log(1.0 + exp(-abs(v)))));
        }
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
        let t = goal[i];
        var gradient = 1.0 / (1.0 + exp(-v)) - t;
        if (FOCAL == 1u) {
            let s = surprises(v);
            let q = exp(-s);
            gradient = (1.0 - t) * exp(-p.gamma * s.x) * (q.x + p.gamma * q.y * s.y)
                - t * exp(-p.gamma * s.y) * (q.y + p.gamma * q.x * s.x);
        }
        let d = of_row(i, scale[0] * loss[0] * weight(i) * gradient);
        dx[i] = select(d, dx[i] + d, p.add == 1u);
    }
}
