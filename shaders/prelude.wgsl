// What every shader may use. The host puts this before a shader's own source, and the constants before both.

// High word of the 64-bit product.
fn mul_hi(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let one = a0 * b1;
    let two = a1 * b0;
    let middle = (low >> 16u) + (one & 0xffffu) + (two & 0xffffu);
    return a1 * b1 + (one >> 16u) + (two >> 16u) + (middle >> 16u);
}

// Philox4x32-10 (Salmon et al. 2011), the CPU's bits.
fn philox(counter: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = seed;
    for (var i = 0u; i < 10u; i++) {
        let p = 0xD2511F53u * c.x;
        let q = 0xCD9E8D57u * c.z;
        c = vec4<u32>(mul_hi(0xCD9E8D57u, c.z) ^ c.y ^ k.x, q, mul_hi(0xD2511F53u, c.x) ^ c.w ^ k.y, p);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// One dropout: what the kernel's Params say of it. `row` is the key's entry that rows are counted from.
struct Drop {
    threshold: u32,
    dropout_id: u32,
    row: u32,
    scale: f32,
}

// 0 or 1 / (1 - p) for column c, from the sixteen bits of its block of eight columns.
fn factor(d: Drop, words: vec4<u32>, c: u32) -> f32 {
    let bits = (words[(c & 7u) >> 1u] >> ((c & 1u) * 16u)) & 0xffffu;
    return select(d.scale, 0.0, bits < d.threshold);
}

// The error function, as device/cpu/real.rs computes it.
fn erf(x: f32) -> f32 {
    let t = abs(x);
    let s = x * x;
    let near = x * (1.0 + (0.12837915 + s * (-0.3761248 + s * (0.11281684 + s * (-0.026761752
        + s * (0.004985977 + s * -0.0005953897))))));
    let c = min(t, 4.0);
    let far = 1.0 - exp(-c * (1.0 + (0.12865219 + c * (0.6351358 + c * (0.106263295 + c * (-0.023785464
        + c * (0.0036538133 + c * (-0.0003256631 + c * 1.1523134e-5))))))));
    return select(near, select(far, -far, x < 0.0), t > 0.92);
}

// The driver's tanh gives NaN for large arguments on some adapters.
fn tanh_safe(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

// Both forms of GELU and their derivatives: see src/ops/activation.rs.
const SQRT_2_PI = 0.7978845608028654;
fn gelu_erf(z: f32) -> f32 {
    return 0.5 * z * (1.0 + erf(z * 0.7071067811865476));
}
fn gelu_erf_gradient(z: f32) -> f32 {
    return 0.5 * (1.0 + erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * exp(-0.5 * z * z);
}
fn gelu_tanh(z: f32) -> f32 {
    return 0.5 * z * (1.0 + tanh_safe(SQRT_2_PI * (z + 0.044715 * z * z * z)));
}
fn gelu_tanh_gradient(z: f32) -> f32 {
    let t = tanh_safe(SQRT_2_PI * (z + 0.044715 * z * z * z));
    return 0.5 * (1.0 + t + z * SQRT_2_PI * (1.0 + 0.134145 * z * z) * (1.0 - t * t));
}

// The activations, by their numbers in src/ops/activation.rs: 0 none, 1 GELU by erf, 2 GELU by tanh, 3 ReLU,
// 4 tanh.
fn activation(act: u32, z: f32) -> f32 {
    switch act {
        case 1u: { return gelu_erf(z); }
        case 2u: { return gelu_tanh(z); }
        case 3u: { return select(z, 0.0, z < 0.0); }
        case 4u: { return tanh_safe(z); }
        default: { return z; }
    }
}
// The derivative at z, where y = activation(z). GELU reads z only, ReLU and tanh y only: a caller that keeps
// one of the two gives it for both.
fn activation_gradient(act: u32, z: f32, y: f32) -> f32 {
    switch act {
        case 1u: { return gelu_erf_gradient(z); }
        case 2u: { return gelu_tanh_gradient(z); }
        case 3u: { return select(0.0, 1.0, y > 0.0); }
        case 4u: { return 1.0 - y * y; }
        default: { return 1.0; }
    }
}

// Sums over a group, in one order. All of its invocations must call these.
var<workgroup> block_parts: array<f32, THREADS>;

// By halving; every invocation gets the sum.
fn block_sum(li: u32, v: f32) -> f32 {
    block_parts[li] = v;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if (li < half) {
            block_parts[li] += block_parts[li + half];
        }
        workgroupBarrier();
    }
    let sum = block_parts[0];
    // The next sum overwrites the parts.
    workgroupBarrier();
    return sum;
}
// One after the other; the first invocation gets the sum, the others 0.
fn block_sum_in_order(li: u32, v: f32) -> f32 {
    block_parts[li] = v;
    workgroupBarrier();
    var sum = 0.0;
    if (li == 0u) {
        for (var i = 0u; i < THREADS; i++) {
            sum += block_parts[i];
        }
    }
    return sum;
}

// Whether the bits are those of a finite number; drivers may compile `x != x` away.
fn finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}

// Not a number, for what must not pass as a result; `any` keeps the compiler from seeing a constant.
fn nan(any: u32) -> f32 {
    return bitcast<f32>(0x7fc00000u | (any & 1u));
}

// Where this invocation stands in a folded one-dimensional launch.
fn flat(group: vec3<u32>, count: vec3<u32>, local: u32) -> u32 {
    return (group.x + group.y * count.x) * THREADS + local;
}
