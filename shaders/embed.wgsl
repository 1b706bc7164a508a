// y[t] = word[ids[t]] + position[positions[t]] + kind[types[t]]: see src/ops/embed.rs.

struct Params {
    tokens: u32,
    cols: u32,
    rows: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> positions: array<u32>;
@group(0) @binding(2) var<storage, read_write> types: array<u32>;
@group(0) @binding(3) var<storage, read_write> word: array<f32>;
@group(0) @binding(4) var<storage, read_write> position: array<f32>;
@group(0) @binding(5) var<storage, read_write> kind: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let t = i / p.cols;
    let c = i % p.cols;
    if (t < p.tokens) {
        let rows = vec3<u32>(ids[t], positions[t], types[t]);
        let most = vec3<u32>(arrayLength(&word), arrayLength(&position), arrayLength(&kind)) / p.cols;
        // An index without a row shows: it makes the loss no number, and the step is skipped and reported.
        if (any(rows >= most)) {
            y[i] = nan(t);
        } else {
            let at = rows * p.cols + c;
            y[i] = word[at.x] + position[at.y] + kind[at.z];
        }
    }
}

var<workgroup> earlier: atomic<u32>;

// Gradient of one table: ids are the indices into it, word is the table's gradient, y is dy. One group a token; the first
// token of each row adds up all of that row's, in order. No float atomics, no sorting.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let t = group.x + group.y * count.x;
    let real = t < p.tokens;
    if (li == 0u) {
        atomicStore(&earlier, 0u);
    }
    workgroupBarrier();
    let row = ids[min(t, p.tokens - 1u)];
    for (var i = li; i < select(0u, t, real); i += THREADS) {
        if (ids[i] == row) {
            atomicStore(&earlier, 1u);
        }
    }
    workgroupBarrier();
    if (atomicLoad(&earlier) == 1u || !real || row >= p.rows) {
        return;
    }
    for (var i = t; i < p.tokens; i++) {
        if (ids[i] == row) {
            for (var c = li; c < p.cols; c += THREADS) {
                word[row * p.cols + c] += y[i * p.cols + c];
            }
        }
    }
}
