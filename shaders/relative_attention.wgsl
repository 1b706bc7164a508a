// o = drop(softmax(scale s)) v, s_ij = (q_i + w) k_j + (q_i + u) r[i - j] + (q_i + g) e[segments differ]: see
// src/ops/relative_attention. Stands behind attention.common.wgsl. Constants: D (head_dim), ORDERED (0 or 1),
// THREADS. A group has THREADS tokens of one sequence and one head, an invocation one of them; the tokens of
// the other side go by, the same for the whole group.

struct Params {
    drop: Drop,
    tokens: u32,
    heads: u32,
    seqs: u32,
    // Rows of r.
    distances: u32,
    scale: f32,
    add: u32,
}
var<immediate> p: Params;

// Eight buffers are all that a stage may bind, so names change with the entry.
@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;     // dy in backward_delta
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;  // segments in prepare
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;  // (tokens, 4): place, rank, bound, segment
@group(0) @binding(3) var<storage, read_write> r: array<f32>;
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> key: array<u32>;     // order in prepare
@group(0) @binding(6) var<storage, read_write> o: array<f32>;       // dy in the backward pass; in the last entries a gradient
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;     // `work` in the backward pass

// Parts of `work`: dq by keys, dq by distances, dk, dv (tokens, heads, D); sums of dS over the keys of the
// same and of another segment, lse, delta (tokens, heads); dr (distances, heads, D).
fn part(which: u32) -> u32 {
    return which * p.tokens * p.heads * D;
}
fn number(which: u32, t: u32, head: u32) -> u32 {
    return part(4u) + (which * p.tokens + t) * p.heads + head;
}
fn dr_at() -> u32 {
    return part(4u) + 4u * p.tokens * p.heads;
}

@compute @workgroup_size(THREADS)
fn prepare(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let t = flat(group, count, li);
    if (t >= p.tokens) {
        return;
    }
    tokens[4u * t + 3u] = bounds[t];
    if (ORDERED == 1u) {
        tokens[4u * t] = key[3u * t];
        tokens[4u * t + 1u] = key[3u * t + 1u];
        tokens[4u * t + 2u] = key[3u * t + 2u];
    } else {
        tokens[4u * t + 1u] = 0u;
        tokens[4u * t + 2u] = 1u;
    }
}

// The row of r, in elements, for query i and key j of the sequence that begins at `first`.
fn row_of(i: u32, j: u32, first: u32, head: u32) -> u32 {
    let at = select(i - first, tokens[4u * i], ORDERED == 1u);
    let row = clamp(i32(at) - i32(j - first) + i32(p.distances / 2u), 0, i32(p.distances) - 1);
    return (u32(row) * p.heads + head) * D;
}
fn sees(i: u32, j: u32) -> bool {
    return ORDERED == 0u || tokens[4u * j + 1u] < tokens[4u * i + 2u];
}
fn bias_at(which: u32, head: u32) -> u32 {
    return (which * p.heads + head) * D;
}
// Which row of `bias` the segments of two tokens give.
fn kind_of(i: u32, j: u32) -> u32 {
    return select(3u, 4u, tokens[4u * i + 3u] != tokens[4u * j + 3u]);
}
fn mask_words(row: u32, head: u32, block: u32) -> vec4<u32> {
    let dropout_id = p.drop.dropout_id ^ (head << 16u);
    return philox(vec4<u32>(key[p.drop.row] + row, block, dropout_id, key[2]), vec2<u32>(key[0], key[1]));
}

// What the pairs of a query have in common: q + w, q + u, and (q + g) e.
var<private> qw: array<f32, D>;
var<private> qu: array<f32, D>;
var<private> kinds: vec2<f32>;

fn load_query(i: u32, head: u32) {
    let base = (i * 3u * p.heads + head) * D;
    kinds = vec2<f32>();
    for (var c = 0u; c < D; c++) {
        let q = qkv[base + c];
        qw[c] = q + bias[bias_at(0u, head) + c];
        qu[c] = q + bias[bias_at(1u, head) + c];
        let qg = q + bias[bias_at(2u, head) + c];
        kinds.x = fma(qg, bias[bias_at(3u, head) + c], kinds.x);
        kinds.y = fma(qg, bias[bias_at(4u, head) + c], kinds.y);
    }
}
// The score of that query and key j, scaled.
fn score(i: u32, j: u32, first: u32, head: u32) -> f32 {
    let k = ((j * 3u + 1u) * p.heads + head) * D;
    let row = row_of(i, j, first, head);
    var s = select(kinds.y, kinds.x, kind_of(i, j) == 3u);
    for (var c = 0u; c < D; c++) {
        s = fma(qw[c], qkv[k + c], s);
        s = fma(qu[c], r[row + c], s);
    }
    return s * p.scale;
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let i = seq.z + li;
    if (i >= seq.y) {
        return;
    }
    load_query(i, head);
    var sum_v: array<f32, D>;
    var most = -3.0e38;
    var sum = 0.0;
    var words = vec4<u32>();
    for (var j = seq.x; j < seq.y; j++) {
        let c = j - seq.x;
        if (p.drop.threshold > 0u && (c & 7u) == 0u) {
            words = mask_words(i, head, c / 8u);
        }
        if (!sees(i, j)) {
            continue;
        }
        let s = score(i, j, seq.x, head);
        let top = max(most, s);
        let shrink = exp(most - top);
        var e = exp(s - top);
        most = top;
        sum = fma(sum, shrink, e);
        if (p.drop.threshold > 0u) {
            e *= factor(p.drop, words, c);
        }
        let v = ((j * 3u + 2u) * p.heads + head) * D;
        for (var a = 0u; a < D; a++) {
            sum_v[a] = fma(e, qkv[v + a], sum_v[a] * shrink);
        }
    }
    let blind = sum == 0.0;
    let norm = select(1.0 / sum, 0.0, blind);
    for (var a = 0u; a < D; a++) {
        o[(i * p.heads + head) * D + a] = sum_v[a] * norm;
    }
    lse[seq.x * p.heads + head * (seq.y - seq.x) + i - seq.x] = select(most + log(sum), 0.0, blind);
}

// lse and delta = rowsum(do o) into `work`, which is bound as r here; dy as qkv.
@compute @workgroup_size(THREADS)
fn backward_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let i = seq.z + li;
    if (i >= seq.y) {
        return;
    }
    let at = (i * p.heads + head) * D;
    var d = 0.0;
    for (var c = 0u; c < D; c++) {
        d = fma(qkv[at + c], o[at + c], d);
    }
    r[number(2u, i, head)] = lse[seq.x * p.heads + head * (seq.y - seq.x) + i - seq.x];
    r[number(3u, i, head)] = d;
}

// The two parts of dq that are sums over vectors, and the two sums of dS.
@compute @workgroup_size(THREADS)
fn backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let i = seq.z + li;
    if (i >= seq.y) {
        return;
    }
    load_query(i, head);
    let base = (i * p.heads + head) * D;
    let norm = lse[number(2u, i, head)];
    let delta = lse[number(3u, i, head)];
    var up: array<f32, D>;
    var by_key: array<f32, D>;
    var by_distance: array<f32, D>;
    for (var c = 0u; c < D; c++) {
        up[c] = o[base + c];
    }
    var sums = vec2<f32>();
    var words = vec4<u32>();
    for (var j = seq.x; j < seq.y; j++) {
        let n = j - seq.x;
        if (p.drop.threshold > 0u && (n & 7u) == 0u) {
            words = mask_words(i, head, n / 8u);
        }
        if (!sees(i, j)) {
            continue;
        }
        let k = ((j * 3u + 1u) * p.heads + head) * D;
        let row = row_of(i, j, seq.x, head);
        var dp = 0.0;
        for (var c = 0u; c < D; c++) {
            dp = fma(up[c], qkv[k + p.heads * D + c], dp);
        }
        if (p.drop.threshold > 0u) {
            dp *= factor(p.drop, words, n);
        }
        let ds = exp(score(i, j, seq.x, head) - norm) * (dp - delta) * p.scale;
        for (var c = 0u; c < D; c++) {
            by_key[c] = fma(ds, qkv[k + c], by_key[c]);
            by_distance[c] = fma(ds, r[row + c], by_distance[c]);
        }
        sums += select(vec2<f32>(0.0, ds), vec2<f32>(ds, 0.0), kind_of(i, j) == 3u);
    }
    for (var c = 0u; c < D; c++) {
        lse[base + c] = by_key[c];
        lse[part(1u) + base + c] = by_distance[c];
    }
    lse[number(0u, i, head)] = sums.x;
    lse[number(1u, i, head)] = sums.y;
}

@compute @workgroup_size(THREADS)
fn backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let j = seq.z + li;
    if (j >= seq.y) {
        return;
    }
    let k = ((j * 3u + 1u) * p.heads + head) * D;
    var dk: array<f32, D>;
    var dv: array<f32, D>;
    for (var i = seq.x; i < seq.y; i++) {
        if (!sees(i, j)) {
            continue;
        }
        load_query(i, head);
        let up = (i * p.heads + head) * D;
        var dp = 0.0;
        for (var c = 0u; c < D; c++) {
            dp = fma(o[up + c], qkv[k + p.heads * D + c], dp);
        }
        var m = 1.0;
        if (p.drop.threshold > 0u) {
            m = factor(p.drop, mask_words(i, head, (j - seq.x) / 8u), j - seq.x);
        }
        let prob = exp(score(i, j, seq.x, head) - lse[number(2u, i, head)]);
        let ds = prob * (dp * m - lse[number(3u, i, head)]) * p.scale;
        for (var c = 0u; c < D; c++) {
            dk[c] = fma(ds, qw[c], dk[c]);
            dv[c] = fma(prob * m, o[up + c], dv[c]);
        }
    }
    let to = (j * p.heads + head) * D;
    for (var c = 0u; c < D; c++) {
        lse[part(2u) + to + c] = dk[c];
        lse[part(3u) + to + c] = dv[c];
    }
}

// dr of one distance and head: the pairs at this distance, sequence by sequence.
@compute @workgroup_size(THREADS)
fn backward_r(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = group.x * THREADS + li;
    let head = group.y;
    if (row >= p.distances) {
        return;
    }
    let far = i32(p.distances / 2u);
    var dr: array<f32, D>;
    for (var s = 0u; s < p.seqs; s++) {
        let first = bounds[s];
        let end = bounds[s + 1u];
        for (var i = first; i < end; i++) {
            // The key at this distance, or, at the ends of the table, it and all that are farther.
            let at = i32(select(i - first, tokens[4u * i], ORDERED == 1u)) + far - i32(row);
            var low = at;
            var high = at + 1;
            if (row == 0u) {
                high = i32(end - first);
            }
            if (row + 1u == p.distances) {
                low = 0;
            }
            low = max(low, 0);
            high = min(high, i32(end - first));
            if (low >= high) {
                continue;
            }
            load_query(i, head);
            let up = (i * p.heads + head) * D;
            for (var n = u32(low); n < u32(high); n++) {
                let j = first + n;
                if (!sees(i, j)) {
                    continue;
                }
                let v = ((j * 3u + 2u) * p.heads + head) * D;
                var dp = 0.0;
                for (var c = 0u; c < D; c++) {
                    dp = fma(o[up + c], qkv[v + c], dp);
                }
                if (p.drop.threshold > 0u) {
                    dp *= factor(p.drop, mask_words(i, head, n / 8u), n);
                }
                let prob = exp(score(i, j, first, head) - lse[number(2u, i, head)]);
                let ds = prob * (dp - lse[number(3u, i, head)]) * p.scale;
                for (var c = 0u; c < D; c++) {
                    dr[c] = fma(ds, qu[c], dr[c]);
                }
            }
        }
    }
    for (var c = 0u; c < D; c++) {
        lse[dr_at() + (row * p.heads + head) * D + c] = dr[c];
    }
}

// dqkv (o) from `work`.
@compute @workgroup_size(THREADS)
fn put_qkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let hidden = p.heads * D;
    let n = flat(group, count, li);
    let t = n / hidden;
    let c = n % hidden;
    if (t >= p.tokens) {
        return;
    }
    let head = c / D;
    let same = lse[number(0u, t, head)] * bias[3u * hidden + c];
    let dq = lse[n] + lse[part(1u) + n] + fma(lse[number(1u, t, head)], bias[4u * hidden + c], same);
    let d = vec3<f32>(dq, lse[part(2u) + n], lse[part(3u) + n]);
    for (var which = 0u; which < 3u; which++) {
        let at = (t * 3u + which) * hidden + c;
        o[at] = select(d[which], o[at] + d[which], p.add == 1u);
    }
}
// dr (o) from `work`.
@compute @workgroup_size(THREADS)
fn put_r(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
         @builtin(local_invocation_index) li: u32) {
    let n = flat(group, count, li);
    if (n >= p.distances * p.heads * D) {
        return;
    }
    let d = lse[dr_at() + n];
    o[n] = select(d, o[n] + d, p.add == 1u);
}

// The gradients of the biases: first by blocks of 64 tokens into o (blocks, 5, heads D), an invocation a
// column; then over the blocks into r.
@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let hidden = p.heads * D;
    let c = group.x * THREADS + li;
    if (c >= hidden) {
        return;
    }
    let head = c / D;
    var sums: array<f32, 5>;
    for (var t = group.y * 64u; t < min(p.tokens, group.y * 64u + 64u); t++) {
        let same = lse[number(0u, t, head)];
        let different = lse[number(1u, t, head)];
        let qg = qkv[t * 3u * hidden + c] + bias[2u * hidden + c];
        sums[0] += lse[t * hidden + c];
        sums[1] += lse[part(1u) + t * hidden + c];
        sums[2] += fma(same, bias[3u * hidden + c], different * bias[4u * hidden + c]);
        sums[3] += same * qg;
        sums[4] += different * qg;
    }
    for (var which = 0u; which < 5u; which++) {
        o[(group.y * 5u + which) * hidden + c] = sums[which];
    }
}
@compute @workgroup_size(THREADS)
fn sum_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let n = group.x * THREADS + li;
    let cols = 5u * p.heads * D;
    if (n >= cols) {
        return;
    }
    var sum = 0.0;
    for (var b = 0u; b < (p.tokens + 63u) / 64u; b++) {
        sum += o[b * cols + n];
    }
    r[n] = select(sum, r[n] + sum, p.add == 1u);
}
