// y = x m / (1 - p), and dx from dy by the same formula: see src/ops/dropout.rs.

struct Params {
    drop: Drop,
    rows: u32,
    cols: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> key: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// One invocation a block of eight columns.
@compute @workgroup_size(THREADS)
fn apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
         @builtin(local_invocation_index) li: u32) {
    let blocks = (p.cols + 7u) / 8u;
    let i = flat(group, count, li);
    let row = i / blocks;
    let block = i % blocks;
    if (row >= p.rows) {
        return;
    }
    let words = philox(vec4<u32>(key[p.drop.row] + row, block, p.drop.dropout_id, key[2]), vec2<u32>(key[0], key[1]));
    for (var c = block * 8u; c < min(p.cols, block * 8u + 8u); c++) {
        let at = row * p.cols + c;
        var v = x[at] * factor(p.drop, words, c);
        if (p.add == 1u) {
            v += y[at];
        }
        y[at] = v;
    }
}
