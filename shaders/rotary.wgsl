// Queries and keys turned by their positions: see src/ops/rotary.rs.

struct Params {
    tokens: u32,
    heads: u32,
    half: u32,
    sign: f32,
    add: u32,
    first: u32,
    s1: u32,
    s2: u32,
    s4: u32,
    s8: u32,
    s16: u32,
    s32: u32,
    s64: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> positions: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Sine and cosine of a fraction of a turn in 2^32nds, within 6e-8: an eighth of a turn at most, by Taylor's
// series. What the language has may be off by 5e-4.
fn sine_cosine(turn: u32) -> vec2<f32> {
    let quarter = (turn + 0x20000000u) >> 30u;
    let x = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9; // 2 pi / 2^32
    let q = x * x;
    let a = x + x * q * (-0.16666667 + q * (8.333334e-3 + q * (-1.984127e-4 + q * 2.7557319e-6)));
    let b = 1.0 + q * (-0.5 + q * (0.041666668 + q * (-1.3888889e-3 + q * 2.4801587e-5)));
    let odd = (quarter & 1u) == 1u;
    let s = select(a, b, odd);
    let c = select(b, a, odd);
    return vec2<f32>(select(s, -s, quarter >= 2u), select(c, -c, quarter == 1u || quarter == 2u));
}

// Pair i's fraction of a turn a position.
fn frequency(i: u32) -> u32 {
    var f = p.first;
    if ((i & 1u) != 0u) { f = mul_hi(f, p.s1); }
    if ((i & 2u) != 0u) { f = mul_hi(f, p.s2); }
    if ((i & 4u) != 0u) { f = mul_hi(f, p.s4); }
    if ((i & 8u) != 0u) { f = mul_hi(f, p.s8); }
    if ((i & 16u) != 0u) { f = mul_hi(f, p.s16); }
    if ((i & 32u) != 0u) { f = mul_hi(f, p.s32); }
    if ((i & 64u) != 0u) { f = mul_hi(f, p.s64); }
    return f;
}

fn write(at: u32, v: f32) {
    y[at] = select(v, y[at] + v, p.add == 1u);
}

// One invocation a pair of one head of a token.
@compute @workgroup_size(THREADS)
fn turn(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
        @builtin(local_invocation_index) li: u32) {
    let item = flat(group, count, li);
    let i = item % p.half;
    let head = item / p.half % p.heads;
    let t = item / p.half / p.heads;
    if (t >= p.tokens) {
        return;
    }
    let turned = sine_cosine(positions[t] * frequency(i));
    let s = turned.x * p.sign;
    let c = turned.y;
    let hidden = p.heads * 2u * p.half;
    let start = t * 3u * hidden + head * 2u * p.half + i;
    for (var which = 0u; which < 2u; which++) {
        let low = start + which * hidden;
        let a = x[low];
        let b = x[low + p.half];
        write(low, a * c - b * s);
        write(low + p.half, b * c + a * s);
    }
    let value = start + 2u * hidden;
    write(value, x[value]);
    write(value + p.half, x[value + p.half]);
}
