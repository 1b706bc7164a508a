// SGD with momentum over a flat arena: see src/ops/sgd.rs. Stands behind shaders/update.wgsl. Constant:
// NESTEROV. Without momentum STATES is 0, and the values are bound in place of buf.

struct Params {
    momentum: f32,
    max_norm: f32,
}
var<immediate> p: Params;

@group(0) @binding(5) var<storage, read_write> buf: array<f32>;

struct Rates {
    keep: f32,
    lr: f32,
    decay: f32,
}

fn rates(lr: f32, decay: f32) -> Rates {
    return Rates(1.0 - lr * decay, lr, decay);
}

fn update_element(i: u32, g: f32, r: Rates) {
    if (STATES == 0u) {
        value[i] = value[i] * r.keep - r.lr * g;
        return;
    }
    let d = g + r.decay * value[i];
    let b = p.momentum * buf[i] + d;
    buf[i] = b;
    let nesterov = d + p.momentum * b;
    value[i] -= r.lr * select(b, nesterov, NESTEROV == 1u);
}
