// o = sum_j p_qj C_j, p_qj the softmax over features of w_j q' + L_j; C_j, L_j the softmax over keys of w_j
// k' - |k'|^2 / 2: see src/ops/favor. Stands behind attention.common.wgsl. Constants: D (head_dim), THREADS.
// A group has THREADS features, or tokens, of one sequence and one head, an invocation one of them; the other
// side goes by, the same for the whole group, with the softmax kept up to date.

struct Params {
    tokens: u32,
    heads: u32,
    seqs: u32,
    features: u32,
    scale: f32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;
@group(0) @binding(2) var<storage, read_write> w: array<f32>;
// o in the forward pass and in backward_delta; then delta = rowsum(do o) (heads tokens); for the keys dC and
// E, as the table.
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
// C (seqs, heads, features, D), then L (seqs, heads, features).
@group(0) @binding(4) var<storage, read_write> table: array<f32>;
// In backward_delta: delta, to be written.
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> dy: array<f32>;
// dqkv; for the features dC and E, as the table.
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

// The first row of C of a sequence and head, and where L begins.
fn row_of(seq: u32, head: u32) -> u32 {
    return (seq * p.heads + head) * p.features;
}
fn norms() -> u32 {
    return p.seqs * p.heads * p.features * D;
}

// C and L of one feature.
@compute @workgroup_size(THREADS)
fn keys(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let blocks = (p.features + THREADS - 1u) / THREADS;
    let seq = group.x / blocks;
    let j = (group.x % blocks) * THREADS + li;
    let head = group.y;
    if (j >= p.features || seq >= p.seqs) {
        return;
    }
    let hidden = p.heads * D;
    let root = sqrt(p.scale);
    var f: array<f32, D>;
    var sum_v: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        f[i] = w[j * D + i] * root;
    }
    var most = -3.0e38;
    var sum = 0.0;
    for (var t = bounds[seq]; t < bounds[seq + 1u]; t++) {
        let at = t * 3u * hidden + hidden + head * D;
        var s = 0.0;
        var norm = 0.0;
        for (var i = 0u; i < D; i++) {
            let k = qkv[at + i];
            s = fma(f[i], k, s);
            norm = fma(k, k, norm);
        }
        s -= 0.5 * p.scale * norm;
        let top = max(most, s);
        let shrink = exp(most - top);
        let e = exp(s - top);
        most = top;
        sum = fma(sum, shrink, e);
        for (var i = 0u; i < D; i++) {
            sum_v[i] = fma(e, qkv[at + hidden + i], sum_v[i] * shrink);
        }
    }
    let row = row_of(seq, head) + j;
    for (var i = 0u; i < D; i++) {
        table[row * D + i] = sum_v[i] / sum;
    }
    table[norms() + row] = most + log(sum);
}

// o of one query.
@compute @workgroup_size(THREADS)
fn queries(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let t = seq.z + li;
    if (t >= seq.y) {
        return;
    }
    let hidden = p.heads * D;
    let row = row_of(seq.w, head);
    let root = sqrt(p.scale);
    var q: array<f32, D>;
    var sum_c: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        q[i] = qkv[t * 3u * hidden + head * D + i] * root;
    }
    var most = -3.0e38;
    var sum = 0.0;
    for (var j = 0u; j < p.features; j++) {
        var a = table[norms() + row + j];
        for (var i = 0u; i < D; i++) {
            a = fma(q[i], w[j * D + i], a);
        }
        let top = max(most, a);
        let shrink = exp(most - top);
        let e = exp(a - top);
        most = top;
        sum = fma(sum, shrink, e);
        for (var i = 0u; i < D; i++) {
            sum_c[i] = fma(e, table[(row + j) * D + i], sum_c[i] * shrink);
        }
    }
    for (var i = 0u; i < D; i++) {
        o[t * hidden + head * D + i] = sum_c[i] / sum;
    }
    lse[seq.x * p.heads + head * (seq.y - seq.x) + t - seq.x] = most + log(sum);
}

@compute @workgroup_size(THREADS)
fn backward_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let t = seq.z + li;
    if (t >= seq.y) {
        return;
    }
    let at = (t * p.heads + group.y) * D;
    var d = 0.0;
    for (var i = 0u; i < D; i++) {
        d = fma(dy[at + i], o[at + i], d);
    }
    lse[seq.x * p.heads + group.y * (seq.y - seq.x) + t - seq.x] = d;
}

// dq of one query.
@compute @workgroup_size(THREADS)
fn backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let t = seq.z + li;
    if (t >= seq.y) {
        return;
    }
    let hidden = p.heads * D;
    let base = t * 3u * hidden + head * D;
    let mine = seq.x * p.heads + head * (seq.y - seq.x) + t - seq.x;
    let row = row_of(seq.w, head);
    let root = sqrt(p.scale);
    var q: array<f32, D>;
    var up: array<f32, D>;
    var dq: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        q[i] = qkv[base + i] * root;
        up[i] = dy[t * hidden + head * D + i];
    }
    for (var j = 0u; j < p.features; j++) {
        var a = 0.0;
        var dp = 0.0;
        for (var i = 0u; i < D; i++) {
            a = fma(q[i], w[j * D + i], a);
            dp = fma(up[i], table[(row + j) * D + i], dp);
        }
        let da = exp(a + table[norms() + row + j] - lse[mine]) * (dp - o[mine]) * root;
        for (var i = 0u; i < D; i++) {
            dq[i] = fma(da, w[j * D + i], dq[i]);
        }
    }
    for (var i = 0u; i < D; i++) {
        out[base + i] = select(dq[i], out[base + i] + dq[i], p.add == 1u);
    }
}

// dC and E of one feature.
@compute @workgroup_size(THREADS)
fn backward_features(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let blocks = (p.features + THREADS - 1u) / THREADS;
    let seq = group.x / blocks;
    let j = (group.x % blocks) * THREADS + li;
    let head = group.y;
    if (j >= p.features || seq >= p.seqs) {
        return;
    }
    let hidden = p.heads * D;
    let first = bounds[seq];
    let end = bounds[seq + 1u];
    let row = row_of(seq, head) + j;
    let root = sqrt(p.scale);
    var f: array<f32, D>;
    var c: array<f32, D>;
    var dc: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        f[i] = w[j * D + i] * root;
        c[i] = table[row * D + i];
    }
    let norm = table[norms() + row];
    var e = 0.0;
    for (var t = first; t < end; t++) {
        let at = t * 3u * hidden + head * D;
        let up = t * hidden + head * D;
        let mine = first * p.heads + head * (end - first) + t - first;
        var a = norm;
        var dp = 0.0;
        for (var i = 0u; i < D; i++) {
            a = fma(f[i], qkv[at + i], a);
            dp = fma(c[i], dy[up + i], dp);
        }
        let prob = exp(a - lse[mine]);
        e = fma(prob, dp - o[mine], e);
        for (var i = 0u; i < D; i++) {
            dc[i] = fma(prob, dy[up + i], dc[i]);
        }
    }
    for (var i = 0u; i < D; i++) {
        e = fma(-dc[i], c[i], e);
        out[row * D + i] = dc[i];
    }
    out[norms() + row] = e;
}

// dk and dv of one key. o holds dC and E.
@compute @workgroup_size(THREADS)
fn backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let t = seq.z + li;
    if (t >= seq.y) {
        return;
    }
    let hidden = p.heads * D;
    let base = t * 3u * hidden + hidden + head * D;
    let row = row_of(seq.w, head);
    let root = sqrt(p.scale);
    var k: array<f32, D>;
    var v: array<f32, D>;
    var dk: array<f32, D>;
    var dv: array<f32, D>;
    var half = 0.0;
    for (var i = 0u; i < D; i++) {
        k[i] = qkv[base + i];
        v[i] = qkv[base + hidden + i];
        half = fma(k[i], k[i], half);
    }
    half *= 0.5 * p.scale;
    var total = 0.0;
    for (var j = 0u; j < p.features; j++) {
        var b = 0.0;
        var dp = o[norms() + row + j];
        for (var i = 0u; i < D; i++) {
            b = fma(k[i], w[j * D + i], b);
            dp = fma(v[i], o[(row + j) * D + i], dp);
        }
        let e = exp(b * root - half - table[norms() + row + j]);
        let db = e * dp;
        total += db;
        for (var i = 0u; i < D; i++) {
            dk[i] = fma(db * root, w[j * D + i], dk[i]);
            dv[i] = fma(e, o[(row + j) * D + i], dv[i]);
        }
    }
    for (var i = 0u; i < D; i++) {
        let d = fma(-total * p.scale, k[i], dk[i]);
        out[base + i] = select(d, out[base + i] + d, p.add == 1u);
        let at = base + hidden + i;
        out[at] = select(dv[i], out[at] + dv[i], p.add == 1u);
    }
}
