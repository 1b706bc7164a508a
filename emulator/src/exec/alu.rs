//! What happens in registers alone.

use crate::isa::{Binary, Compare, Kernel, Logic, Mode, Op, Operand, Round, SINK, Ternary, Type, Unary};
use crate::number::{
    blur, convert, flush, fma, from_bf16, from_f16, masked, round_f64, signed, to_bf16, to_f16, to_f64,
};
use crate::warp::{Lanes, Scene, Warp};

fn f32_of(x: u64, ftz: bool) -> f32 {
    flush(f32::from_bits(x as u32), ftz)
}

fn f32_bits(x: f32, mode: Mode) -> u64 {
    let x = flush(x, mode.ftz);
    let x = match mode.sat {
        true if x.is_nan() => 0.0,
        true => x.clamp(0.0, 1.0),
        false => x,
    };
    // A GPU gives one NaN only.
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

/// The lesser or greater of two, and the other one if one is not a number.
fn extreme(x: f64, y: f64, least: bool, nan: bool) -> f64 {
    match (x.is_nan(), y.is_nan()) {
        (true, true) => f64::NAN,
        (true, false) | (false, true) if nan => f64::NAN,
        (true, false) => y,
        (false, true) => x,
        _ => {
            let x_first = x < y || x == y && x.is_sign_negative();
            if x_first == least { x } else { y }
        }
    }
}

/// Applies to the values of a 16-bit type, one or two in a word.
fn halves<const N: usize>(t: Type, x: [u64; N], f: impl Fn([f64; N]) -> f64) -> u64 {
    let one = |shift: u32| {
        let of = |x: u64| {
            let h = (x >> shift) as u16;
            f64::from(if matches!(t, Type::F16 | Type::F16x2) { from_f16(h) } else { from_bf16(h) })
        };
        let y = f(x.map(of));
        let bits = if matches!(t, Type::F16 | Type::F16x2) {
            to_f16(y, Round::Near)
        } else {
            to_bf16(y, Round::Near)
        };
        u64::from(bits) << shift
    };
    if t.bits() == 16 { one(0) } else { one(0) | one(16) }
}

fn is_half(t: Type) -> bool {
    matches!(t, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2)
}

fn unary(f: Unary, t: Type, mode: Mode, seed: u64, x: u64) -> u64 {
    let bits = t.bits();
    match (f, t) {
        (Unary::Mov, _) => masked(x, bits),
        (Unary::Neg, Type::F32) => (f32_of(x, mode.ftz).to_bits() ^ 1 << 31).into(),
        (Unary::Abs, Type::F32) => (f32_of(x, mode.ftz).to_bits() & !(1 << 31)).into(),
        (Unary::Neg, Type::F64) => x ^ 1 << 63,
        (Unary::Abs, Type::F64) => x & !(1 << 63),
        (Unary::Neg, Type::F16 | Type::Bf16) => x & 0xffff ^ 0x8000,
        (Unary::Abs, Type::F16 | Type::Bf16) => x & 0x7fff,
        (Unary::Neg, Type::F16x2 | Type::Bf16x2) => x & 0xffff_ffff ^ 0x8000_8000,
        (Unary::Abs, Type::F16x2 | Type::Bf16x2) => x & 0x7fff_7fff,
        (Unary::Neg, _) => masked(x.wrapping_neg(), bits),
        (Unary::Abs, _) => masked(signed(x, bits).unsigned_abs(), bits),
        (Unary::Not, _) => masked(!x, bits),
        (Unary::Cnot, _) => (masked(x, bits) == 0).into(),
        (Unary::Popc, _) => masked(x, bits).count_ones().into(),
        (Unary::Clz, _) => u64::from(masked(x, bits).leading_zeros() - (64 - bits)),
        (Unary::Brev, _) => x.reverse_bits() >> (64 - bits),
        (Unary::Bfind | Unary::BfindShift, _) => {
            let x = if t.signed() && signed(x, bits) < 0 { !x } else { x };
            let found = masked(x, bits).checked_ilog2();
            found.map_or(0xffff_ffff, |n| if f == Unary::Bfind { n } else { bits - 1 - n }.into())
        }
        (Unary::Ex2, t) if is_half(t) => halves(t, [x], |[x]| x.exp2()),
        (Unary::Tanh, t) if is_half(t) => halves(t, [x], |[x]| x.tanh()),
        (Unary::Rcp, Type::F64) => (1.0 / f64::from_bits(x)).to_bits(),
        (Unary::Sqrt, Type::F64) => f64::from_bits(x).sqrt().to_bits(),
        (Unary::Rsqrt, Type::F64) => (1.0 / f64::from_bits(x).sqrt()).to_bits(),
        _ => {
            let v = f64::from(f32_of(x, mode.ftz));
            // Largest errors: CUDA programming guide, "intrinsic functions".
            let (y, ulps) = match f {
                Unary::Ex2 => (v.exp2(), 2),
                Unary::Lg2 => (v.log2(), 1),
                Unary::Rcp => (1.0 / v, 1),
                Unary::Sqrt => (v.sqrt(), 1),
                Unary::Rsqrt => (1.0 / v.sqrt(), 2),
                Unary::Sin => (v.sin(), 2),
                Unary::Cos => (v.cos(), 2),
                _ => (v.tanh(), 4),
            };
            let y = round_f64(y, mode.round);
            let exact = matches!(f, Unary::Rcp | Unary::Sqrt) && !mode.approx;
            f32_bits(if exact { y } else { blur(y, seed, ulps) }, mode)
        }
    }
}

#[inline(always)]
fn binary(f: Binary, t: Type, mode: Mode, seed: u64, x: u64, y: u64) -> u64 {
    match t {
        Type::F32 if !matches!(f, Binary::And | Binary::Or | Binary::Xor) => {
            let (a, b) = (f32_of(x, mode.ftz), f32_of(y, mode.ftz));
            let z = match f {
                Binary::Add if mode.round == Round::Near => a + b,
                Binary::Add => fma(a, 1.0, b, mode.round),
                Binary::Sub if mode.round == Round::Near => a - b,
                Binary::Sub => fma(a, 1.0, -b, mode.round),
                Binary::Div if mode.approx => blur(a / b, seed, 2),
                Binary::Div => round_f64(f64::from(a) / f64::from(b), mode.round),
                Binary::Min | Binary::Max => extreme(a.into(), b.into(), f == Binary::Min, mode.nan) as f32,
                Binary::Copysign => b.copysign(a),
                _ if mode.round == Round::Near => a * b,
                _ => fma(a, b, 0.0, mode.round),
            };
            f32_bits(z, mode)
        }
        Type::F64 if !matches!(f, Binary::And | Binary::Or | Binary::Xor) => {
            let (a, b) = (f64::from_bits(x), f64::from_bits(y));
            let z = match f {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Div => a / b,
                Binary::Min | Binary::Max => extreme(a, b, f == Binary::Min, mode.nan),
                Binary::Copysign => b.copysign(a),
                _ => a * b,
            };
            z.to_bits()
        }
        t if is_half(t) => halves(t, [x, y], |[a, b]| {
            let z = match f {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Min | Binary::Max => extreme(a, b, f == Binary::Min, mode.nan),
                _ => a * b,
            };
            let z = if mode.sat { z.clamp(0.0, 1.0) } else { z };
            if mode.relu && z < 0.0 { 0.0 } else { z }
        }),
        _ => integer(f, t, mode, x, y),
    }
}

#[inline(always)]
fn integer(f: Binary, t: Type, mode: Mode, x: u64, y: u64) -> u64 {
    let bits = t.bits();
    let (ux, uy) = (masked(x, bits), masked(y, bits));
    let (sx, sy) = (signed(x, bits), signed(y, bits));
    let is_signed = t.signed();
    let z = match f {
        Binary::Add | Binary::Sub if mode.sat => {
            let z = if f == Binary::Add { sx + sy } else { sx - sy };
            z.clamp(i32::MIN.into(), i32::MAX.into()) as u64
        }
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::MulLo => x.wrapping_mul(y),
        Binary::MulHi if is_signed => ((i128::from(sx) * i128::from(sy)) >> bits) as u64,
        Binary::MulHi => ((u128::from(ux) * u128::from(uy)) >> bits) as u64,
        Binary::MulWide => {
            let z = if is_signed { sx.wrapping_mul(sy) as u64 } else { ux.wrapping_mul(uy) };
            return masked(z, 2 * bits);
        }
        // Division by zero: the PTX ISA leaves it open; GPUs give all ones.
        Binary::Div if uy == 0 => u64::MAX,
        Binary::Div if is_signed => sx.wrapping_div(sy) as u64,
        Binary::Div => ux / uy,
        Binary::Rem if uy == 0 => x,
        Binary::Rem if is_signed => sx.wrapping_rem(sy) as u64,
        Binary::Rem => ux % uy,
        Binary::Min if is_signed => sx.min(sy) as u64,
        Binary::Max if is_signed => sx.max(sy) as u64,
        Binary::Min => ux.min(uy),
        Binary::Max => ux.max(uy),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => {
            let n = y & 0xffff_ffff;
            if n >= bits.into() { 0 } else { x << n }
        }
        Binary::Shr => {
            let n = (y & 0xffff_ffff).min(u64::from(bits));
            match is_signed {
                true => (sx >> n.min(63)) as u64,
                false => ux.checked_shr(n as u32).unwrap_or(0),
            }
        }
        Binary::Copysign => x,
    };
    masked(z, bits)
}

#[inline(always)]
fn ternary(f: Ternary, t: Type, mode: Mode, x: u64, y: u64, z: u64) -> u64 {
    let bits = t.bits();
    match f {
        Ternary::Fma => match t {
            Type::F32 => {
                let of = |v| f32_of(v, mode.ftz);
                f32_bits(fma(of(x), of(y), of(z), mode.round), mode)
            }
            Type::F64 => f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z)).to_bits(),
            t if is_half(t) => halves(t, [x, y, z], |[a, b, c]| {
                // The product of two 16-bit floats is exact in f64.
                let v = a.mul_add(b, c);
                if mode.relu && v < 0.0 { 0.0 } else { v }
            }),
            _ => integer(Binary::Add, t, mode, integer(Binary::MulLo, t, mode, x, y), z),
        },
        Ternary::MadLo => masked(x.wrapping_mul(y).wrapping_add(z), bits),
        Ternary::MadHi => masked(integer(Binary::MulHi, t, mode, x, y).wrapping_add(z), bits),
        Ternary::MadWide => masked(integer(Binary::MulWide, t, mode, x, y).wrapping_add(z), 2 * bits),
        Ternary::Bfe => {
            let (at, len) = ((y & 255) as u32, (z & 255) as u32);
            let sign = if t.signed() && len > 0 {
                let top = (at + len - 1).min(bits - 1);
                x >> top & 1 == 1
            } else {
                false
            };
            let kept = len.min(bits.saturating_sub(at));
            let v = if at >= bits { 0 } else { masked(masked(x, bits) >> at, kept) };
            masked(if sign { v | u64::MAX.checked_shl(kept).unwrap_or(0) } else { v }, bits)
        }
        Ternary::Prmt => {
            let bytes = masked(x, 32) | y << 32;
            (0..4).fold(0, |all, i| {
                let pick = z >> (4 * i) & 15;
                let byte = bytes >> (8 * (pick & 7)) & 255;
                let byte = if pick & 8 == 0 { byte } else { 255 * (byte >> 7) };
                all | byte << (8 * i)
            })
        }
        Ternary::Shf(left, clamp) => {
            let n = masked(z, 32);
            let n = if clamp { n.min(32) } else { n & 31 };
            let pair = masked(x, 32) | y << 32;
            masked(if left { pair.checked_shl(n as u32).unwrap_or(0) >> 32 } else { pair >> n }, 32)
        }
        Ternary::Lop3(table) => {
            let one = |i: u64| {
                let pick = |v: u64, flag: u64| if i & flag != 0 { v } else { !v };
                if table >> i & 1 == 1 { pick(x, 4) & pick(y, 2) & pick(z, 1) } else { 0 }
            };
            masked((0..8).fold(0, |all, i| all | one(i)), bits)
        }
        Ternary::Sad => {
            let off = match t.signed() {
                true => signed(x, bits).abs_diff(signed(y, bits)),
                false => masked(x, bits).abs_diff(masked(y, bits)),
            };
            masked(off.wrapping_add(z), bits)
        }
        Ternary::Dp4a(a, b) => {
            let byte = |v: u64, i: u32, s: bool| {
                let v = v >> (8 * i) & 255;
                if s { signed(v, 8) } else { v as i64 }
            };
            let sum: i64 = (0..4).map(|i| byte(x, i, a) * byte(y, i, b)).sum();
            masked(z.wrapping_add(sum as u64), 32)
        }
        Ternary::Dp2a(a, b, upper) => {
            let part = |v: u64, i: u32, bits: u32, s: bool| {
                let v = v >> (bits * i) & ((1 << bits) - 1);
                if s { signed(v, bits) } else { v as i64 }
            };
            let from = if upper { 2 } else { 0 };
            let sum: i64 = (0..2).map(|i| part(x, i, 16, a) * part(y, from + i, 8, b)).sum();
            masked(z.wrapping_add(sum as u64), 32)
        }
    }
}

#[inline(always)]
fn compare(cmp: Compare, t: Type, ftz: bool, x: u64, y: u64) -> bool {
    let (order, unordered) = if t.integer() {
        let order = match t.signed() {
            true => signed(x, t.bits()).cmp(&signed(y, t.bits())),
            false => masked(x, t.bits()).cmp(&masked(y, t.bits())),
        };
        (Some(order), false)
    } else {
        let of = |v: u64| if t == Type::F32 { f32_of(v, ftz).into() } else { to_f64(v, t) };
        let order = of(x).partial_cmp(&of(y));
        (order, order.is_none())
    };
    let holds = |f: fn(std::cmp::Ordering) -> bool| order.is_some_and(f);
    match cmp {
        Compare::Eq => holds(|o| o.is_eq()),
        Compare::Ne => holds(|o| o.is_ne()),
        Compare::Lt => holds(|o| o.is_lt()),
        Compare::Le => holds(|o| o.is_le()),
        Compare::Gt => holds(|o| o.is_gt()),
        Compare::Ge => holds(|o| o.is_ge()),
        Compare::Equ => unordered || holds(|o| o.is_eq()),
        Compare::Neu => unordered || holds(|o| o.is_ne()),
        Compare::Ltu => unordered || holds(|o| o.is_lt()),
        Compare::Leu => unordered || holds(|o| o.is_le()),
        Compare::Gtu => unordered || holds(|o| o.is_gt()),
        Compare::Geu => unordered || holds(|o| o.is_ge()),
        Compare::Num => !unordered,
        Compare::Nan => unordered,
    }
}

fn logic(f: Logic, a: u32, b: u32) -> u32 {
    match f {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// A warp with what its operands may name.
struct Alu<'w> {
    w: &'w mut Warp,
    k: &'w Kernel,
    s: &'w Scene,
    m: u32,
}

impl Alu<'_> {
    fn read(&mut self, o: Operand) -> Lanes {
        self.w.read(o, self.m, self.k, self.s)
    }
    #[inline(never)]
    fn map1(&mut self, d: u32, a: Operand, f: impl Fn(u64) -> u64) {
        let v = self.read(a).map(f);
        self.w.write(d, self.m, &v);
    }
    #[inline(never)]
    fn map2(&mut self, d: u32, a: Operand, b: Operand, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.read(a), self.read(b));
        self.w.write(d, self.m, &std::array::from_fn(|l| f(a[l], b[l])));
    }
    #[inline(never)]
    fn map3(&mut self, d: u32, a: Operand, b: Operand, c: Operand, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (self.read(a), self.read(b), self.read(c));
        self.w.write(d, self.m, &std::array::from_fn(|l| f(a[l], b[l], c[l])));
    }
    #[inline(never)]
    fn test(&mut self, a: Operand, b: Operand, f: impl Fn(u64, u64) -> bool) -> u32 {
        let (a, b) = (self.read(a), self.read(b));
        (0..32).fold(0, |bits, l| bits | u32::from(f(a[l], b[l])) << l)
    }
}

/// Makes a loop of its own for each operation and each common type: matching in the loop costs more than the
/// work.
macro_rules! fan {
    ($f:expr, $t:expr, $plain:expr, $kind:ident: $($name:ident)*, $body:ident, $other:expr) => {
        match ($f, $t) {
            $(
                ($kind::$name, Type::F32) if $plain => $body!($kind::$name, Type::F32),
                ($kind::$name, Type::S(32)) if $plain => $body!($kind::$name, Type::S(32)),
                ($kind::$name, Type::U(32) | Type::B(32)) if $plain => $body!($kind::$name, Type::U(32)),
                ($kind::$name, Type::U(64) | Type::B(64)) if $plain => $body!($kind::$name, Type::U(64)),
                ($kind::$name, Type::S(64)) if $plain => $body!($kind::$name, Type::S(64)),
            )*
            _ => $other,
        }
    };
}

/// Carries out an instruction of registers for some lanes; false if it is of another sort.
pub(crate) fn run(w: &mut Warp, k: &Kernel, s: &Scene, seed: u64, op: &Op, m: u32) -> bool {
    let mut x = Alu { w, k, s, m };
    match *op {
        // A copy of what nobody wrote is as unwritten: only its use is wrong.
        Op::Unary { f: Unary::Mov, t, d, a, .. } => {
            let v = x.w.peek(a, k, s).map(|v| masked(v, t.bits()));
            let missing = if let Operand::Reg(r) = a { m & !x.w.written[r as usize] } else { 0 };
            x.w.write(d, m, &v);
            if d != SINK {
                x.w.written[d as usize] &= !missing;
            }
        }
        Op::Unary { f, t, mode, d, a } => x.map1(d, a, |v| unary(f, t, mode, seed, v)),
        Op::Binary { f, t, mode, d, a, b } => {
            let plain = mode == Mode::default();
            macro_rules! body {
                ($f:expr, $t:expr) => {
                    x.map2(d, a, b, |a, b| binary($f, $t, Mode::default(), 0, a, b))
                };
            }
            fan!(f, t, plain, Binary: Add Sub MulLo MulHi MulWide Min Max And Or Xor Shl Shr, body,
                x.map2(d, a, b, |a, b| binary(f, t, mode, seed, a, b)));
        }
        Op::Ternary { f, t, mode, d, a, b, c } => {
            let plain = mode == Mode::default();
            macro_rules! body {
                ($f:expr, $t:expr) => {
                    x.map3(d, a, b, c, |a, b, c| ternary($f, $t, Mode::default(), a, b, c))
                };
            }
            fan!(f, t, plain, Ternary: Fma MadLo MadWide, body,
                x.map3(d, a, b, c, |a, b, c| ternary(f, t, mode, a, b, c)));
        }
        Op::Carry { sub, t, take, give, d, a, b } => {
            let bits = t.bits();
            let carry = x.w.carry;
            let (va, vb) = (x.read(a), x.read(b));
            let mut out = carry;
            let v = std::array::from_fn(|l| {
                let c = if take { u128::from(carry >> l & 1) } else { 0 };
                let (p, q) = (u128::from(masked(va[l], bits)), u128::from(masked(vb[l], bits)));
                let r = if sub { p.wrapping_sub(q).wrapping_sub(c) } else { p + q + c };
                if m >> l & 1 == 1 {
                    out = out & !(1 << l) | ((r >> bits & 1) as u32) << l;
                }
                masked(r as u64, bits)
            });
            x.w.write(d, m, &v);
            if give {
                x.w.carry = out;
            }
        }
        Op::Bfi { t, d, a, b, at, len } => {
            let (va, vb, at, len) = (x.read(a), x.read(b), x.read(at), x.read(len));
            let bits = t.bits();
            let v = std::array::from_fn(|l| {
                let (at, len) = ((at[l] & 255) as u32, (len[l] & 255) as u32);
                let keep = masked(u64::MAX, len.min(64)).checked_shl(at).unwrap_or(0);
                masked(vb[l] & !keep | va[l].checked_shl(at).unwrap_or(0) & keep, bits)
            });
            x.w.write(d, m, &v);
        }
        Op::Pack { bits, d, ref parts } => {
            let each = bits / parts.len() as u32;
            let mut v = [0; 32];
            let mut missing = 0;
            for (i, &p) in parts.iter().enumerate() {
                if let Operand::Reg(r) = p {
                    missing |= m & !x.w.written[r as usize];
                }
                let part = x.w.peek(p, k, s);
                for l in 0..32 {
                    v[l] |= masked(part[l], each) << (each * i as u32);
                }
            }
            x.w.write(d, m, &v);
            if d != SINK {
                x.w.written[d as usize] &= !missing;
            }
        }
        Op::Unpack { bits, ref parts, a } => {
            let each = bits / parts.len() as u32;
            let v = x.w.peek(a, k, s);
            let missing = if let Operand::Reg(r) = a { m & !x.w.written[r as usize] } else { 0 };
            for (i, &d) in parts.iter().enumerate() {
                x.w.write(d, m, &v.map(|v| masked(v >> (each * i as u32), each)));
                if d != SINK {
                    x.w.written[d as usize] &= !missing;
                }
            }
        }
        Op::Logic { f, d, a, b } => {
            let bits = logic(f, x.w.pred(a), x.w.pred(b));
            x.w.set_pred(d, m, bits);
        }
        Op::Setp { cmp, t, ftz, d, q, a, b, and } => {
            macro_rules! body {
                ($f:expr, $t:expr) => {
                    x.test(a, b, |a, b| compare($f, $t, false, a, b))
                };
            }
            let bits = fan!(cmp, t, !ftz, Compare: Eq Ne Lt Le Gt Ge, body, x.test(a, b, |a, b| compare(cmp, t, ftz, a, b)));
            let with = |bits| and.map_or(bits, |(f, p)| logic(f, bits, x.w.pred(p)));
            let (p, not) = (with(bits), with(!bits));
            x.w.set_pred(d, m, p);
            x.w.set_pred(q, m, not);
        }
        Op::Set { cmp, to, t, ftz, d, a, b } => {
            let one = if to == Type::F32 { 0x3f80_0000 } else { 0xffff_ffff };
            x.map2(d, a, b, |a, b| if compare(cmp, t, ftz, a, b) { one } else { 0 });
        }
        Op::Selp { t, d, a, b, p } => {
            let p = x.w.pred(p);
            let missing = |o: Operand, m: u32| if let Operand::Reg(r) = o { Some((r, m)) } else { None };
            // Only the value that is taken has to be there.
            let mut lost = 0;
            for (r, m) in [missing(a, m & p), missing(b, m & !p)].into_iter().flatten() {
                lost |= m & !x.w.written[r as usize];
            }
            let (va, vb) = (x.w.peek(a, k, s), x.w.peek(b, k, s));
            let pick = |l: usize| if p >> l & 1 == 1 { va[l] } else { vb[l] };
            x.w.write(d, m, &std::array::from_fn(|l| masked(pick(l), t.bits())));
            if d != SINK {
                x.w.written[d as usize] &= !lost;
            }
        }
        Op::Slct { t, by, d, a, b, c } => {
            let negative = |v: u64| {
                if by == Type::F32 {
                    f32_of(v, false) < 0.0 || f32_of(v, false).is_nan()
                } else {
                    signed(v, 32) < 0
                }
            };
            x.map3(d, a, b, c, |a, b, c| masked(if negative(c) { b } else { a }, t.bits()));
        }
        Op::Cvt { to, from, mode, d, a, b: Some(b) } => {
            let half = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
            x.map2(d, a, b, |a, b| convert(a, from, half, mode) << 16 | convert(b, from, half, mode));
        }
        Op::Cvt { to, from, mode, d, a, b: None } => {
            let wide = if d == SINK { 64 } else { u32::from(k.registers[d as usize]) };
            // A signed result fills a wider register with its sign.
            x.map1(d, a, |v| {
                let y = convert(v, from, to, mode);
                if to.signed() && wide > to.bits() { masked(signed(y, to.bits()) as u64, wide) } else { y }
            });
        }
        Op::Cvta { space, to, d, a } => {
            use crate::memory::{LOCAL, PARAM, SHARED};
            let window = match space {
                crate::isa::Space::Shared => SHARED,
                crate::isa::Space::Local => LOCAL,
                crate::isa::Space::Param | crate::isa::Space::Frame => PARAM,
                _ => 0,
            };
            x.map1(d, a, |v| if to { v.wrapping_sub(window) } else { v.wrapping_add(window) });
        }
        Op::Isspacep { space, d, a } => {
            let bits = x.test(a, Operand::Imm(0), |a, _| super::access::space_of(a).0 == space);
            x.w.set_pred(d, m, bits);
        }
        Op::Nop => {}
        _ => return false,
    }
    true
}
