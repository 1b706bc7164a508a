// y = scale x / max(|x|, eps): see src/ops/normalize.rs. One invocation a row.

struct Params {
    rows: u32,
    cols: u32,
    scale: f32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> inverse: array<f32>;
// In the forward pass y, in the backward pass dy.
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

const EPS: f32 = 1e-12;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.cols;
    var sum = 0.0;
    for (var c = 0u; c < p.cols; c++) {
        sum += x[at + c] * x[at + c];
    }
    let r = 1.0 / max(sqrt(sum), EPS);
    inverse[row] = r;
    for (var c = 0u; c < p.cols; c++) {
        y[at + c] = p.scale * r * x[at + c];
    }
}

// dx = scale r (dy - x (x dy) r^2).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.cols;
    let r = inverse[row];
    var along = 0.0;
    for (var c = 0u; c < p.cols; c++) {
        along += x[at + c] * r * y[at + c];
    }
    // A row shorter than eps is only scaled.
    along = select(0.0, along, r < 1.0 / EPS);
    for (var c = 0u; c < p.cols; c++) {
        let d = p.scale * r * (y[at + c] - x[at + c] * r * along);
        dx[at + c] = select(d, dx[at + c] + d, p.add == 1u);
    }
}
