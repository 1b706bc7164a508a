// y[i] = x[index[i]]: see src/ops/gather.rs.

struct Params {
    rows: u32,
    cols: u32,
    n: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let k = i / p.cols;
    if (k >= p.n) {
        return;
    }
    let row = index[k];
    var v = 0.0;
    if (row < p.rows) {
        v = x[row * p.cols + i % p.cols];
    }
    y[i] = v;
}

// y is dy, x is dx. The entry of a row is found by halving: the index rises, padding is larger than any row.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let row = i / p.cols;
    if (row >= p.rows) {
        return;
    }
    var low = 0u;
    var high = p.n;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (index[middle] < row) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    var d = 0.0;
    if (low < p.n) {
        if (index[low] == row) {
            d = y[low * p.cols + i % p.cols];
        }
    }
    x[i] = select(d, x[i] + d, p.add == 1u);
}
