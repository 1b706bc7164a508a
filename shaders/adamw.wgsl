// AdamW over a flat arena: see src/ops/adamw.rs. Stands behind shaders/update.wgsl.

struct Params {
    beta1: f32,
    beta2: f32,
    eps: f32,
    max_norm: f32,
}
var<immediate> p: Params;

@group(0) @binding(5) var<storage, read_write> m: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;

struct Rates {
    keep: f32,
    rate: f32,
    // The root of the second moment's correction.
    root: f32,
}

fn rates(lr: f32, decay: f32) -> Rates {
    return Rates(1.0 - lr * decay, lr / control[3], sqrt(control[4]));
}

fn update_element(i: u32, g: f32, r: Rates) {
    let first = m[i] + (1.0 - p.beta1) * (g - m[i]);
    let second = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
    m[i] = first;
    v[i] = second;
    value[i] = value[i] * r.keep - r.rate * first / (sqrt(second) / r.root + p.eps);
}
