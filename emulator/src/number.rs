//! Number formats and roundings that Rust does not have.

use crate::isa::{Mode, Round, Type};

/// binary16 to binary32, exactly.
pub fn from_f16(h: u16) -> f32 {
    const LEAST: f32 = 1.0 / (1 << 24) as f32;
    let (exponent, fraction) = (u32::from(h >> 10 & 31), u32::from(h & 1023));
    let bits = match exponent {
        0 => (fraction as f32 * LEAST).to_bits(),
        31 if fraction == 0 => f32::INFINITY.to_bits(),
        31 => f32::NAN.to_bits(),
        e => (e + 112) << 23 | fraction << 13,
    };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

/// bf16 to binary32, exactly.
pub fn from_bf16(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Rounds to a multiple of a power of two.
fn to_grid(x: f64, unit: f64, round: Round) -> f64 {
    let n = x / unit;
    let n = match round {
        Round::Near => n.round_ties_even(),
        Round::Away => n.round(),
        Round::Zero => n.trunc(),
        Round::Down => n.floor(),
        Round::Up => n.ceil(),
    };
    n * unit
}

/// Rounds to a float of so many fraction bits, whose smallest normal exponent and largest number are given.
fn narrow(x: f64, bits: i32, least: i32, largest: f64, round: Round) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 2047) as i32 - 1023).max(least);
    let rounded = to_grid(x, 2f64.powi(exponent - bits), round);
    if rounded.abs() <= largest {
        return rounded;
    }
    let stays = match round {
        Round::Zero => true,
        Round::Down => x > 0.0,
        Round::Up => x < 0.0,
        Round::Near | Round::Away => false,
    };
    if stays { largest.copysign(x) } else { f64::INFINITY.copysign(x) }
}

/// binary64 to binary16.
pub fn to_f16(x: f64, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let a = narrow(x, 10, -14, 65504.0, round).abs();
    if a.is_infinite() {
        return sign | 0x7c00;
    }
    if a < 2f64.powi(-14) {
        return sign | (a * 2f64.powi(24)) as u16;
    }
    let bits = (a as f32).to_bits();
    sign | ((bits >> 13) - (112 << 10)) as u16
}

/// binary64 to bf16.
pub fn to_bf16(x: f64, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let largest = f64::from(from_bf16(0x7f7f));
    ((narrow(x, 7, -126, largest, round) as f32).to_bits() >> 16) as u16
}

/// binary32 to one whose last 13 bits are zero.
pub fn to_tf32(x: f32, round: Round) -> f32 {
    narrow(x.into(), 10, -126, f64::from(f32::from_bits(0x7f7f_e000)), round) as f32
}

/// Subnormals to zero, if that is asked for.
pub fn flush(x: f32, ftz: bool) -> f32 {
    if ftz && x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `a * b + c`, rounded once, in any direction.
pub fn fma(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let near = a.mul_add(b, c);
    if round == Round::Near || !near.is_finite() && (a * b).is_infinite() | c.is_infinite() | near.is_nan() {
        return near;
    }
    // The product is exact in f64; the sum's error is found by Knuth's two-sum.
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let t = sum - p;
    let error = (p - (sum - t)) + (c - t);
    directed(sum, error, round)
}

/// `sum + error`, which no f64 holds, to f32.
fn directed(sum: f64, error: f64, round: Round) -> f32 {
    let near = sum as f32;
    let off = (f64::from(near) - sum) - error;
    let (low, high) = match off {
        o if o > 0.0 => (near.next_down(), near),
        o if o < 0.0 => (near, near.next_up()),
        _ => return near,
    };
    match round {
        Round::Down => low,
        Round::Up => high,
        Round::Zero if sum > 0.0 => low,
        Round::Zero => high,
        Round::Near | Round::Away => near,
    }
}

/// A quotient or root that f64 holds to twice the precision, rounded to f32 in any direction.
pub fn round_f64(x: f64, round: Round) -> f32 {
    if x.is_finite() { directed(x, 0.0, round) } else { x as f32 }
}

/// What the bits of a type say, as f64. Integers of 64 bits lose what f64 cannot hold.
pub fn to_f64(bits: u64, t: Type) -> f64 {
    match t {
        Type::F16 => from_f16(bits as u16).into(),
        Type::Bf16 => from_bf16(bits as u16).into(),
        Type::F32 | Type::Tf32 => f32::from_bits(bits as u32).into(),
        Type::F64 => f64::from_bits(bits),
        Type::S(_) => signed(bits, t.bits()) as f64,
        _ => bits as f64,
    }
}

/// The low bits of a number, extended by their sign.
pub fn signed(x: u64, bits: u32) -> i64 {
    let free = 64 - bits.clamp(1, 64);
    (x << free) as i64 >> free
}

/// The low bits of a number.
pub fn masked(x: u64, bits: u32) -> u64 {
    if bits >= 64 { x } else { x & ((1 << bits) - 1) }
}

/// `cvt` of one value (PTX ISA, "cvt"): integers wrap or clamp, floats round.
pub fn convert(x: u64, from: Type, to: Type, mode: Mode) -> u64 {
    let integer = from.integer();
    if integer && to.integer() {
        let plain = if from.signed() { signed(x, from.bits()) as u64 } else { masked(x, from.bits()) };
        if !mode.sat {
            return masked(plain, to.bits());
        }
        let wide = if from.signed() { i128::from(plain as i64) } else { plain.into() };
        let wide = clamp(wide, to);
        return masked(wide as u64, to.bits());
    }
    if to.integer() {
        let v = to_f64(x, from);
        let v = if mode.ftz && from == Type::F32 { flush(v as f32, true).into() } else { v };
        if v.is_nan() {
            return 0;
        }
        let v = to_grid(v, 1.0, mode.round);
        return masked(clamp(v as i128, to) as u64, to.bits());
    }
    let exact: f64 = if integer { 0.0 } else { to_f64(x, from) };
    let value = |v: f64| {
        let mut v = v;
        if mode.ftz && (from == Type::F32 || to == Type::F32) {
            v = if (v as f32).is_subnormal() { 0f64.copysign(v) } else { v };
        }
        if mode.integral {
            v = to_grid(v, 1.0, mode.round);
        }
        if mode.relu && v < 0.0 {
            v = 0.0;
        }
        if mode.sat && to != Type::F16 && to != Type::Bf16 || mode.sat && from == to {
            v = if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) };
        }
        v
    };
    match to {
        Type::F16 => u64::from(to_f16(value(if integer { to_f64(x, from) } else { exact }), mode.round)),
        Type::Bf16 => u64::from(to_bf16(value(if integer { to_f64(x, from) } else { exact }), mode.round)),
        Type::Tf32 => u64::from(to_tf32(value(exact) as f32, mode.round).to_bits()),
        Type::F32 => {
            let y = match (integer, from.signed()) {
                (true, _) if from.bits() <= 32 => round_f64(to_f64(x, from), mode.round),
                (true, true) => signed(x, from.bits()) as f32,
                (true, false) => x as f32,
                (false, _) => round_f64(value(exact), if mode.integral { Round::Near } else { mode.round }),
            };
            let y = if integer && mode.sat { y.clamp(0.0, 1.0) } else { y };
            u64::from(y.to_bits())
        }
        _ => match (integer, from.signed()) {
            (true, true) => (signed(x, from.bits()) as f64).to_bits(),
            (true, false) => (masked(x, from.bits()) as f64).to_bits(),
            (false, _) => value(exact).to_bits(),
        },
    }
}

fn clamp(v: i128, to: Type) -> i128 {
    let bits = to.bits();
    match to.signed() {
        true => v.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => v.clamp(0, (1 << bits) - 1),
    }
}

/// What an approximation may give: a few units in the last place off, always the same for the same seed and
/// argument.
pub fn blur(x: f32, seed: u64, ulps: u32) -> f32 {
    if seed == 0 || ulps == 0 || !x.is_normal() {
        return x;
    }
    let mut h = (seed ^ u64::from(x.to_bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let off = ((h >> 33) % u64::from(2 * ulps + 1)) as i32 - ulps as i32;
    let y = f32::from_bits(x.to_bits().wrapping_add_signed(off));
    if y.is_normal() { y } else { x }
}
