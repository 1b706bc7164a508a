// o = drop(softmax(scale q k^T)) v over packed sequences: see src/ops/attention. Stands behind
// attention.common.wgsl. Constants: D (head_dim), THREADS. A group has THREADS tokens of one sequence and one
// head, an invocation one of them; the tokens of the other side go by, the same for the whole group, with the
// softmax kept up to date (Milakov and Gimelshein 2018), so nothing of the size of the scores is stored.

struct Params {
    drop: Drop,
    tokens: u32,
    heads: u32,
    seqs: u32,
    scale: f32,
    add: u32,
    // Keys nearer than this are seen; 0: all.
    window: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;
@group(0) @binding(2) var<storage, read_write> key: array<u32>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dqkv: array<f32>;
@group(0) @binding(7) var<storage, read_write> delta: array<f32>;

// The tokens that this group's tokens may see, or be seen by; from a multiple of eight of the sequence on,
// which the mask needs.
fn others(seq: vec4<u32>) -> vec2<u32> {
    if (p.window == 0u) {
        return seq.xy;
    }
    let far = p.window - 1u;
    return vec2<u32>(seq.x + ((max(seq.z - seq.x, far) - far) & ~7u), min(seq.y, seq.z + THREADS + far));
}

fn sees(query: u32, other: u32) -> bool {
    return p.window == 0u || max(query, other) - min(query, other) < p.window;
}

fn mask_words(row: u32, head: u32, block: u32) -> vec4<u32> {
    let dropout_id = p.drop.dropout_id ^ (head << 16u);
    return philox(vec4<u32>(key[p.drop.row] + row, block, dropout_id, key[2]), vec2<u32>(key[0], key[1]));
}

// Keys that are taken together, so that the sums are rescaled once for all of them.
const KEYS = 4u;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let t = seq.z + li;
    if (t >= seq.y) {
        return;
    }
    let hidden = p.heads * D;
    let base = t * 3u * hidden + head * D;
    var q: array<f32, D>;
    var sum_v: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        q[i] = qkv[base + i] * p.scale;
    }
    var most = -3.0e38;
    var sum = 0.0;
    var words = vec4<u32>();
    let range = others(seq);
    for (var j = range.x; j < range.y; j += KEYS) {
        var scores: array<f32, KEYS>;
        var top = most;
        for (var b = 0u; b < KEYS; b++) {
            let at = min(j + b, range.y - 1u) * 3u * hidden + hidden + head * D;
            var s = 0.0;
            for (var i = 0u; i < D; i++) {
                s = fma(q[i], qkv[at + i], s);
            }
            // Should the first keys all be out of sight, what they leave in the sums shrinks to nothing.
            scores[b] = select(-3.0e38, s, j + b < range.y && sees(t, j + b));
            top = max(top, scores[b]);
        }
        let shrink = exp(most - top);
        most = top;
        sum *= shrink;
        for (var i = 0u; i < D; i++) {
            sum_v[i] *= shrink;
        }
        let c = j - seq.x;
        if (p.drop.threshold > 0u && (c & 7u) == 0u) {
            words = mask_words(t, head, c / 8u);
        }
        for (var b = 0u; b < KEYS; b++) {
            var e = exp(scores[b] - top);
            sum += e;
            if (p.drop.threshold > 0u) {
                e *= factor(p.drop, words, c + b);
            }
            let at = min(j + b, range.y - 1u) * 3u * hidden + 2u * hidden + head * D;
            for (var i = 0u; i < D; i++) {
                sum_v[i] = fma(e, qkv[at + i], sum_v[i]);
            }
        }
    }
    for (var i = 0u; i < D; i++) {
        o[t * hidden + head * D + i] = sum_v[i] / sum;
    }
    lse[seq.x * p.heads + head * (seq.y - seq.x) + t - seq.x] = most + log(sum);
}

// dq of one query, and delta = do o, which the keys need.
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
    let out = t * hidden + head * D;
    let mine = seq.x * p.heads + head * (seq.y - seq.x) + t - seq.x;
    var q: array<f32, D>;
    var up: array<f32, D>;
    var dq: array<f32, D>;
    var d = 0.0;
    for (var i = 0u; i < D; i++) {
        q[i] = qkv[base + i] * p.scale;
        up[i] = dy[out + i];
        d = fma(up[i], o[out + i], d);
    }
    delta[mine] = d;
    let norm = lse[mine];
    var words = vec4<u32>();
    let range = others(seq);
    for (var j = range.x; j < range.y; j++) {
        let at = j * 3u * hidden + hidden + head * D;
        var s = 0.0;
        var dp = 0.0;
        for (var i = 0u; i < D; i++) {
            s = fma(q[i], qkv[at + i], s);
            dp = fma(up[i], qkv[at + hidden + i], dp);
        }
        if (p.drop.threshold > 0u) {
            let c = j - seq.x;
            if ((c & 7u) == 0u) {
                words = mask_words(t, head, c / 8u);
            }
            dp *= factor(p.drop, words, c);
        }
        let ds = select(0.0, exp(s - norm) * (dp - d) * p.scale, sees(t, j));
        for (var i = 0u; i < D; i++) {
            dq[i] = fma(ds, qkv[at + i], dq[i]);
        }
    }
    for (var i = 0u; i < D; i++) {
        dqkv[base + i] = select(dq[i], dqkv[base + i] + dq[i], p.add == 1u);
    }
}

// dk and dv of one key.
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
    let row = seq.x * p.heads + head * (seq.y - seq.x);
    var k: array<f32, D>;
    var v: array<f32, D>;
    var dk: array<f32, D>;
    var dv: array<f32, D>;
    for (var i = 0u; i < D; i++) {
        k[i] = qkv[base + i];
        v[i] = qkv[base + hidden + i];
    }
    let c = t - seq.x;
    // The block of eight keys whose mask bits are drawn together; said so that a group of eight sees one for
    // all.
    var block = (seq.z - seq.x) / 8u;
    if (THREADS > 8u) {
        block = c / 8u;
    }
    let range = others(seq);
    for (var r = range.x; r < range.y; r++) {
        let at = r * 3u * hidden + head * D;
        let out = r * hidden + head * D;
        var s = 0.0;
        var dp = 0.0;
        for (var i = 0u; i < D; i++) {
            s = fma(qkv[at + i], k[i], s);
            dp = fma(dy[out + i], v[i], dp);
        }
        let prob = select(0.0, exp(s * p.scale - lse[row + r - seq.x]), sees(r, t));
        var m = 1.0;
        if (p.drop.threshold > 0u) {
            m = factor(p.drop, mask_words(r, head, block), c);
        }
        let ds = prob * (dp * m - delta[row + r - seq.x]) * p.scale;
        for (var i = 0u; i < D; i++) {
            dk[i] = fma(ds, qkv[at + i], dk[i]);
            dv[i] = fma(prob * m, dy[out + i], dv[i]);
        }
    }
    for (var i = 0u; i < D; i++) {
        dqkv[base + i] = select(dk[i], dqkv[base + i] + dk[i], p.add == 1u);
        let at = base + hidden + i;
        dqkv[at] = select(dv[i], dqkv[at] + dv[i], p.add == 1u);
    }
}
