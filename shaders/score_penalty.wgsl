// grad += lambda share s'(score), the derivative of the sigmoid: see src/ops/score_penalty.rs.

struct Params {
    n: u32,
    share: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> score: array<f32>;
@group(0) @binding(1) var<storage, read_write> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> lambda: array<f32>;

@compute @workgroup_size(THREADS)
fn penalize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i < p.n) {
        // Of -|s|, whose exponential does not overflow.
        let e = exp(-abs(score[i]));
        grad[i] += lambda[0] * p.share * (e / ((1.0 + e) * (1.0 + e)));
    }
}
