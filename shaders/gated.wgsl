// y = act(a) b, where x is a beside b: see src/ops/gated.rs.
// Constants: ACT (as in linear.wgsl), THREADS.

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

fn acted(z: f32) -> f32 {
    switch ACT {
        case 1u: { return gelu_erf(z); }
        case 2u: { return gelu_tanh(z); }
        case 3u: { return select(z, 0.0, z < 0.0); }
        case 4u: { return tanh_safe(z); }
        default: { return z; }
    }
}

fn slope(z: f32) -> f32 {
    switch ACT {
        case 1u: { return gelu_erf_slope(z); }
        case 2u: { return gelu_tanh_slope(z); }
        case 3u: { return select(0.0, 1.0, z > 0.0); }
        case 4u: { return 1.0 - tanh_safe(z) * tanh_safe(z); }
        default: { return 1.0; }
    }
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let row = i / p.cols;
    if (row >= p.rows) {
        return;
    }
    let at = i + row * p.cols;
    y[i] = acted(x[at]) * x[at + p.cols];
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
    let da = y[i] * x[at + p.cols] * slope(x[at]);
    let db = y[i] * acted(x[at]);
    dx[at] = select(da, dx[at] + da, p.add == 1u);
    dx[at + p.cols] = select(db, dx[at + p.cols] + db, p.add == 1u);
}
