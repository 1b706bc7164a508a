// y_i = sum_c u_ic v_ic: see src/ops/dot.rs.

struct Params {
    rows: u32,
    cols: u32,
    add: u32,
}
var<immediate> p: Params;

// In the backward pass: the other input.
@group(0) @binding(0) var<storage, read_write> u: array<f32>;
// In the backward pass: dx.
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
// In the backward pass: dy.
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    var sum = 0.0;
    for (var c = 0u; c < p.cols; c++) {
        sum += u[row * p.cols + c] * v[row * p.cols + c];
    }
    y[row] = sum;
}

@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let row = i / p.cols;
    if (row >= p.rows) {
        return;
    }
    let d = y[row] * u[i];
    v[i] = select(d, v[i] + d, p.add == 1u);
}
