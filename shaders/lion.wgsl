// Lion over a flat arena: see src/ops/lion.rs. Stands behind shaders/update.wgsl.

struct Params {
    beta1: f32,
    beta2: f32,
    max_norm: f32,
}
var<immediate> p: Params;

@group(0) @binding(5) var<storage, read_write> m: array<f32>;

struct Rates {
    keep: f32,
    lr: f32,
}

fn rates(lr: f32, decay: f32) -> Rates {
    return Rates(1.0 - lr * decay, lr);
}

fn update_element(i: u32, g: f32, r: Rates) {
    let u = p.beta1 * m[i] + (1.0 - p.beta1) * g;
    m[i] = p.beta2 * m[i] + (1.0 - p.beta2) * g;
    // WGSL's sign of zero is zero, too.
    value[i] = value[i] * r.keep - r.lr * sign(u);
}
