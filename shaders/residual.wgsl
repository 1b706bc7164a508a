// y = drop(x) + residual: see src/ops/residual.rs.
// Constants: DX, DRES (which gradients are wanted), THREADS.

struct Params {
    drop: Drop,
    rows: u32,
    cols: u32,
    add_x: u32,
    add_residual: u32,
}
var<immediate> p: Params;

// In the backward pass x is dx, residual is dresidual, y is dy.
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> residual: array<f32>;
@group(0) @binding(2) var<storage, read_write> key: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn words(row: u32, block: u32) -> vec4<u32> {
    if (p.drop.threshold == 0u) {
        return vec4<u32>();
    }
    return philox(vec4<u32>(key[p.drop.row] + row, block, p.drop.dropout_id, key[2]), vec2<u32>(key[0], key[1]));
}

fn kept(w: vec4<u32>, c: u32) -> f32 {
    if (p.drop.threshold == 0u) {
        return 1.0;
    }
    return factor(p.drop, w, c);
}

// One invocation a block of eight columns.
@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let blocks = (p.cols + 7u) / 8u;
    let i = flat(group, count, li);
    let row = i / blocks;
    let block = i % blocks;
    if (row >= p.rows) {
        return;
    }
    let w = words(row, block);
    for (var c = block * 8u; c < min(p.cols, block * 8u + 8u); c++) {
        let at = row * p.cols + c;
        y[at] = x[at] * kept(w, c) + residual[at];
    }
}

// dx = drop(dy), dresidual = dy.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let blocks = (p.cols + 7u) / 8u;
    let i = flat(group, count, li);
    let row = i / blocks;
    let block = i % blocks;
    if (row >= p.rows) {
        return;
    }
    let w = words(row, block);
    for (var c = block * 8u; c < min(p.cols, block * 8u + 8u); c++) {
        let at = row * p.cols + c;
        let d = y[at];
        if (DX == 1u) {
            let v = d * kept(w, c);
            x[at] = select(v, x[at] + v, p.add_x == 1u);
        }
        if (DRES == 1u) {
            residual[at] = select(d, residual[at] + d, p.add_residual == 1u);
        }
    }
}
