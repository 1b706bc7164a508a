// y = act(a) b, where x is a beside b: see src/ops/glu.rs.
// Constants: ACT (see the prelude), THREADS.

struct Params {
    rows: u32,
    cols: u32,
    add: u32,
}
var<immediate> p: Params;

// y is dy in the backward pass.
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let row = i / p.cols;
    if (row >= p.rows) {
        return;
    }
    let at = i + row * p.cols;
    y[i] = activation(ACT, x[at]) * x[at + p.cols];
}

// da = dy b act'(a), db = dy act(a).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let row = i / p.cols;
    if (row >= p.rows) {
        return;
    }
    let at = i + row * p.cols;
    let activated = activation(ACT, x[at]);
    let da = y[i] * x[at + p.cols] * activation_gradient(ACT, x[at], activated);
    let db = y[i] * activated;
    dx[at] = select(da, dx[at] + da, p.add == 1u);
    dx[at + p.cols] = select(db, dx[at + p.cols] + db, p.add == 1u);
}
