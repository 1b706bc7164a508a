//! Opcodes: every part of a name has to be known, and every argument has to find its place.

use super::operand::taker;
use super::parts::{Arg, Args, Decoded, Mods, pred_taker};
use super::tensor;
use crate::isa::{
    Atomic, Binary, Compare, Logic, Mode, Op, Operand, Order, Round, SINK, Shuffle, Space, Ternary, Type,
    Unary, Vote,
};

const COMPARES: [(&str, Compare); 18] = [
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
    ("lo", Compare::Lt),
    ("ls", Compare::Le),
    ("hi", Compare::Gt),
    ("hs", Compare::Ge),
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];

const LOGICS: [(&str, Logic); 3] = [("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)];

pub(super) const ATOMICS: [(&str, Atomic); 10] = [
    ("add", Atomic::Add),
    ("min", Atomic::Min),
    ("max", Atomic::Max),
    ("and", Atomic::And),
    ("or", Atomic::Or),
    ("xor", Atomic::Xor),
    ("exch", Atomic::Exch),
    ("cas", Atomic::Cas),
    ("inc", Atomic::Inc),
    ("dec", Atomic::Dec),
];

/// An opcode and its arguments to what is done.
pub(super) fn decode(opcode: &str, mut args: Args) -> Decoded<Op> {
    let mut parts = opcode.split('.');
    let stem = parts.next().unwrap_or_default();
    let mut mods = Mods::new(parts);
    let (m, a) = (&mut mods, &mut args);
    let op = match tensor::decode(stem, m, a)? {
        Some(op) => op,
        None => match arithmetic(stem, m, a)? {
            Some(op) => op,
            None => other(stem, m, a)?,
        },
    };
    mods.done()?;
    match args.left() {
        0 => Ok(op),
        n => Err(format!("{n} too many arguments")),
    }
}

fn arithmetic(stem: &str, m: &mut Mods, a: &mut Args) -> Decoded<Option<Op>> {
    let unary = |f| Some((1, Some(f), None, None));
    let binary = |f| Some((2, None, Some(f), None));
    let ternary = |f| Some((3, None, None, Some(f)));
    let width = |m: &mut Mods| m.pick(&[("lo", 0), ("hi", 1), ("wide", 2)]);
    let kind = match stem {
        "neg" => unary(Unary::Neg),
        "abs" => unary(Unary::Abs),
        "not" => unary(Unary::Not),
        "cnot" => unary(Unary::Cnot),
        "popc" => unary(Unary::Popc),
        "clz" => unary(Unary::Clz),
        "brev" => unary(Unary::Brev),
        "bfind" => unary(if m.take("shiftamt") { Unary::BfindShift } else { Unary::Bfind }),
        "ex2" => unary(Unary::Ex2),
        "lg2" => unary(Unary::Lg2),
        "rcp" => unary(Unary::Rcp),
        "sqrt" => unary(Unary::Sqrt),
        "rsqrt" => unary(Unary::Rsqrt),
        "sin" => unary(Unary::Sin),
        "cos" => unary(Unary::Cos),
        "tanh" => unary(Unary::Tanh),
        "add" | "sub" | "addc" | "subc" => {
            let (give, take) = (m.take("cc"), stem.ends_with('c'));
            let sub = stem.starts_with("sub");
            if give || take {
                let t = m.ty()?;
                let (d, x, y) = (a.taker()?, a.value()?, a.value()?);
                return Ok(Some(Op::Carry { sub, t, take, give, d, a: x, b: y }));
            }
            binary(if sub { Binary::Sub } else { Binary::Add })
        }
        "mul" => binary([Binary::MulLo, Binary::MulHi, Binary::MulWide][width(m).unwrap_or(0)]),
        "div" => binary(Binary::Div),
        "rem" => binary(Binary::Rem),
        "min" => binary(Binary::Min),
        "max" => binary(Binary::Max),
        "shl" => binary(Binary::Shl),
        "shr" => binary(Binary::Shr),
        "copysign" => binary(Binary::Copysign),
        "and" | "or" | "xor" if m.take("pred") => {
            let f = LOGICS.iter().find(|l| l.0 == stem).map_or(Logic::And, |l| l.1);
            let (d, x, y) = (a.pred_taker()?, a.predicate()?, a.predicate()?);
            return Ok(Some(Op::Logic { f, d, a: x, b: y }));
        }
        "and" => binary(Binary::And),
        "or" => binary(Binary::Or),
        "xor" => binary(Binary::Xor),
        "fma" => ternary(Ternary::Fma),
        "mad" => match width(m) {
            None => ternary(Ternary::Fma),
            Some(w) => ternary([Ternary::MadLo, Ternary::MadHi, Ternary::MadWide][w]),
        },
        "bfe" => ternary(Ternary::Bfe),
        "prmt" => ternary(Ternary::Prmt),
        "sad" => ternary(Ternary::Sad),
        "shf" => {
            let left = m.pick(&[("l", true), ("r", false)]).ok_or("expected .l or .r")?;
            let clamp = m.pick(&[("clamp", true), ("wrap", false)]).ok_or("expected .wrap or .clamp")?;
            ternary(Ternary::Shf(left, clamp))
        }
        "dp4a" | "dp2a" => {
            let upper = match stem {
                "dp2a" => Some(m.pick(&[("lo", false), ("hi", true)]).ok_or("expected .lo or .hi")?),
                _ => None,
            };
            let signed = |m: &mut Mods| Ok::<_, String>(m.ty()?.signed());
            let (x, y) = (signed(m)?, signed(m)?);
            let mode = Mode::default();
            let (d, va, b, c) = (a.taker()?, a.value()?, a.value()?, a.value()?);
            let t = if x || y { Type::S(32) } else { Type::U(32) };
            let f = upper.map_or(Ternary::Dp4a(x, y), |upper| Ternary::Dp2a(x, y, upper));
            return Ok(Some(Op::Ternary { f, t, mode, d, a: va, b, c }));
        }
        "lop3" => {
            let t = m.ty()?;
            let (d, x, y, z) = (a.taker()?, a.value()?, a.value()?, a.value()?);
            let f = Ternary::Lop3(a.imm()? as u8);
            return Ok(Some(Op::Ternary { f, t, mode: Mode::default(), d, a: x, b: y, c: z }));
        }
        "bfi" => {
            let t = m.ty()?;
            let (d, x, y) = (a.taker()?, a.value()?, a.value()?);
            return Ok(Some(Op::Bfi { t, d, a: x, b: y, at: a.value()?, len: a.value()? }));
        }
        _ => None,
    };
    let Some((count, unary, binary, ternary)) = kind else { return Ok(None) };
    let mode = m.mode();
    let t = m.ty()?;
    if t == Type::Pred && stem == "not" {
        let (d, x) = (a.pred_taker()?, a.predicate()?);
        return Ok(Some(Op::Logic { f: Logic::Xor, d, a: x, b: Operand::Imm(1) }));
    }
    allowed(stem, t, mode)?;
    let d = a.taker()?;
    let x = a.value()?;
    Ok(Some(match (count, unary, binary, ternary) {
        (1, Some(f), ..) => Op::Unary { f, t, mode, d, a: x },
        (2, _, Some(f), _) => Op::Binary { f, t, mode, d, a: x, b: a.value()? },
        (3, .., Some(f)) => Op::Ternary { f, t, mode, d, a: x, b: a.value()?, c: a.value()? },
        _ => return Err("is not supported".to_owned()),
    }))
}

/// Refuses what the executor has no arithmetic for.
fn allowed(stem: &str, t: Type, mode: Mode) -> Decoded<()> {
    let half = matches!(t, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
    let float = matches!(t, Type::F32 | Type::F64);
    let known = match stem {
        "add" | "sub" | "mul" | "fma" | "neg" | "abs" | "min" | "max" => t != Type::Pred && t != Type::Tf32,
        "ex2" | "tanh" => t == Type::F32 || half,
        "lg2" | "sin" | "cos" => t == Type::F32,
        "rcp" | "sqrt" | "rsqrt" | "copysign" => float,
        "div" => float || t.integer(),
        "mad" => t.integer() || float,
        _ => t.integer() && t.bits() > 8,
    };
    if !known {
        return Err(format!("{t:?} is not supported here"));
    }
    if half && mode.round != Round::Near {
        return Err("only rounding to nearest is known of 16 bits".to_owned());
    }
    if mode.round != Round::Near
        && (t == Type::F64 || !matches!(stem, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt"))
    {
        return Err(format!("rounding {:?} is not supported here", mode.round));
    }
    if t.integer() && (mode.sat && (stem, t) != ("add", Type::S(32)) && (stem, t) != ("sub", Type::S(32))) {
        return Err("saturation is not supported here".to_owned());
    }
    Ok(())
}

fn vector(m: &mut Mods) -> usize {
    m.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

fn mov(m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    let t = m.ty()?;
    if t == Type::Pred {
        let (d, x) = (a.pred_taker()?, a.predicate()?);
        return Ok(Op::Logic { f: Logic::Or, d, a: x, b: Operand::Imm(0) });
    }
    let whole = |n: usize| match n {
        1 | 2 | 4 if t.bits() as usize / n >= 8 => Ok(()),
        _ => Err(format!("{n} parts of {} bits are not supported", t.bits())),
    };
    let (to, from) = (a.next()?, a.next()?);
    Ok(match (to, from) {
        (Arg::List(parts), Arg::One(x)) => {
            whole(parts.len())?;
            let parts = parts.into_iter().map(taker).collect::<Decoded<_>>()?;
            Op::Unpack { bits: t.bits(), parts, a: x }
        }
        (Arg::One(d), Arg::List(parts)) => {
            whole(parts.len())?;
            Op::Pack { bits: t.bits(), d: taker(d)?, parts }
        }
        (
            Arg::One(d),
            Arg::One(x @ (Operand::Reg(_) | Operand::Imm(_) | Operand::Special(_) | Operand::Var(..))),
        ) => Op::Unary { f: Unary::Mov, t, mode: Mode::default(), d: taker(d)?, a: x },
        (_, Arg::Label(l)) => return Err(format!("{l} is not declared")),
        _ => return Err("these arguments are not supported".to_owned()),
    })
}

fn other(stem: &str, m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    let aligned = matches!(stem, "bar" | "barrier" | "shfl" | "vote" | "match" | "redux" | "elect");
    Ok(match stem {
        "mov" => mov(m, a)?,
        "setp" | "set" => {
            let cmp = m.pick(&COMPARES).ok_or("it has no comparison")?;
            let and = m.pick(&LOGICS);
            let ftz = m.take("ftz");
            let to = if stem == "set" { Some(m.ty()?) } else { None };
            let t = m.ty()?;
            if matches!(
                t,
                Type::F16x2 | Type::Bf16x2 | Type::Pred | Type::Tf32 | Type::B(8) | Type::U(8) | Type::S(8)
            ) {
                return Err(format!("{t:?} is not supported here"));
            }
            match to {
                Some(to) => Op::Set { cmp, to, t, ftz, d: a.taker()?, a: a.value()?, b: a.value()? },
                None => {
                    let (d, q) = a.takers(pred_taker)?;
                    let (x, y) = (a.value()?, a.value()?);
                    let and = and.map(|f| a.predicate().map(|p| (f, p))).transpose()?;
                    Op::Setp { cmp, t, ftz, d, q, a: x, b: y, and }
                }
            }
        }
        "selp" => Op::Selp { t: m.ty()?, d: a.taker()?, a: a.value()?, b: a.value()?, p: a.predicate()? },
        "slct" => {
            m.take("ftz");
            let (t, by) = (m.ty()?, m.ty()?);
            Op::Slct { t, by, d: a.taker()?, a: a.value()?, b: a.value()?, c: a.value()? }
        }
        "cvt" => {
            let mode = m.mode();
            let (to, from) = (m.ty()?, m.ty()?);
            let d = a.taker()?;
            let x = a.value()?;
            let pair = matches!(to, Type::F16x2 | Type::Bf16x2);
            if to == Type::Pred
                || from == Type::Pred
                || matches!(from, Type::F16x2 | Type::Bf16x2)
                || (pair && from != Type::F32)
            {
                return Err(format!("from {from:?} to {to:?} is not supported"));
            }
            let b = if pair { Some(a.value()?) } else { None };
            Op::Cvt { to, from, mode, d, a: x, b }
        }
        "cvta" => {
            let to = m.take("to");
            let space = m.space();
            if m.ty()? != Type::U(64) {
                return Err("only addresses of 64 bits are supported".to_owned());
            }
            Op::Cvta { space, to, d: a.taker()?, a: a.value()? }
        }
        "isspacep" => Op::Isspacep { space: m.space(), d: a.pred_taker()?, a: a.value()? },
        "ld" | "ldu" => {
            let (order, space) = (m.order(), m.space());
            m.block();
            let nc = m.take("nc");
            m.cache();
            let n = vector(m);
            let t = m.ty()?;
            let d = a.take_list()?;
            let (address, at) = a.memory()?;
            fits(n, d.len(), t)?;
            Op::Ld { space: at.unwrap_or(space), t, d, a: address, order, nc }
        }
        "st" => {
            let (order, space) = (m.order(), m.space());
            m.block();
            m.cache();
            let n = vector(m);
            let t = m.ty()?;
            let (address, at) = a.memory()?;
            let s = a.list()?;
            fits(n, s.len(), t)?;
            Op::St { space: at.unwrap_or(space), t, s, a: address, order }
        }
        "atom" | "red" => {
            m.take("async");
            let (order, block, space) = (m.order(), m.block(), m.space());
            let f = m.pick(&ATOMICS).ok_or("it has no operation")?;
            m.take("noftz");
            m.cache();
            let n = vector(m);
            let t = m.ty()?;
            let d = if stem == "atom" { a.take_list()? } else { vec![SINK; n] };
            let (address, _) = a.memory()?;
            let b = a.list()?;
            let c = if f == Atomic::Cas { Some(a.value()?) } else { None };
            if a.left() > 0 && matches!(f, Atomic::Exch) {
                return Err("a cache policy is not supported".to_owned());
            }
            fits(n, b.len(), t)?;
            fits(n, d.len(), t)?;
            let float =
                matches!(t, Type::F32 | Type::F64 | Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
            let known = match f {
                Atomic::Add => t.bits() >= 16,
                Atomic::Min | Atomic::Max => t.integer() && t.bits() >= 32,
                _ => !float && t.bits() >= 16,
            };
            if !known || matches!(space, Space::Local | Space::Param | Space::Frame) {
                return Err(format!("{f:?} of {t:?} is not supported"));
            }
            let order = if order == Order::Weak { Order::Relaxed } else { order };
            Op::Atom { f, space, t, d, a: address, b, c, order, block }
        }
        "fence" | "membar" => {
            if m.take("proxy") {
                m.find(|p| matches!(p, "async" | "async::generic" | "alias").then_some(()));
                m.find(|p| matches!(p, "global" | "shared::cta" | "shared::cluster").then_some(()));
                Op::FenceProxy
            } else if m.take("mbarrier_init") {
                m.order();
                m.block();
                Op::Fence { order: Order::Release, block: true }
            } else {
                let order = m.order();
                let order = if order == Order::Weak { Order::AcqRel } else { order };
                Op::Fence { order, block: m.block() }
            }
        }
        "bar" | "barrier" if m.take("warp") => {
            m.take("sync");
            Op::BarWarp { mask: a.value()? }
        }
        "bar" | "barrier" => {
            m.take("cta");
            m.take("aligned");
            if m.take("red") {
                let vote = m.pick(&[("popc", None), ("and", Some(Vote::All)), ("or", Some(Vote::Any))]);
                let vote = vote.ok_or("it has no operation")?;
                m.find(|p| matches!(p, "u32" | "pred").then_some(()));
                let d = match vote {
                    None => a.taker()?,
                    Some(_) => a.pred_taker()?,
                };
                let id = a.value()?;
                let count = if a.left() > 1 { Some(a.value()?) } else { None };
                return Ok(Op::BarRed { vote, d, id, count, p: a.predicate()? });
            }
            let sync = m.pick(&[("sync", true), ("arrive", false)]).ok_or("it has no operation")?;
            let id = a.value()?;
            let count = if a.left() > 0 { Some(a.value()?) } else { None };
            Op::Bar { id, count, sync }
        }
        "activemask" => {
            m.ty()?;
            Op::Activemask { d: a.taker()? }
        }
        _ if aligned && !m.take("sync") => return Err("without .sync it is not supported".to_owned()),
        "shfl" => {
            let kinds = [
                ("up", Shuffle::Up),
                ("down", Shuffle::Down),
                ("bfly", Shuffle::Bfly),
                ("idx", Shuffle::Idx),
            ];
            let f = m.pick(&kinds).ok_or("it has no kind")?;
            m.ty()?;
            let (d, p) = a.takers(taker)?;
            Op::Shfl { f, d, p, a: a.value()?, b: a.value()?, c: a.value()?, mask: a.value()? }
        }
        "vote" => {
            let kinds =
                [("any", Vote::Any), ("all", Vote::All), ("uni", Vote::Uni), ("ballot", Vote::Ballot)];
            let f = m.pick(&kinds).ok_or("it has no kind")?;
            m.ty()?;
            let d = if f == Vote::Ballot { a.taker()? } else { a.pred_taker()? };
            Op::Vote { f, d, p: a.predicate()?, mask: a.value()? }
        }
        "match" => {
            let all = m.pick(&[("any", false), ("all", true)]).ok_or("it has no kind")?;
            let t = m.ty()?;
            let (d, p) = a.takers(taker)?;
            Op::Match { all, t, d, p, a: a.value()?, mask: a.value()? }
        }
        "redux" => {
            let f = m.pick(&ATOMICS).ok_or("it has no operation")?;
            let t = m.ty()?;
            if t.bits() != 32
                || !t.integer()
                || matches!(f, Atomic::Exch | Atomic::Cas | Atomic::Inc | Atomic::Dec)
            {
                return Err(format!("{f:?} of {t:?} is not supported"));
            }
            Op::Redux { f, t, d: a.taker()?, a: a.value()?, mask: a.value()? }
        }
        "elect" => {
            let (d, p) = a.takers(taker)?;
            Op::Elect { d, p, mask: a.value()? }
        }
        "nanosleep" => {
            m.ty()?;
            a.value()?;
            Op::Nop
        }
        "setmaxnreg" => {
            m.find(|p| matches!(p, "inc" | "dec").then_some(()));
            m.take("sync");
            m.take("aligned");
            m.ty()?;
            a.value()?;
            Op::Nop
        }
        "griddepcontrol" => {
            m.find(|p| matches!(p, "wait" | "launch_dependents").then_some(()));
            Op::Nop
        }
        "prefetch" | "prefetchu" => {
            m.space();
            m.find(|p| matches!(p, "L1" | "L2" | "tensormap").then_some(()));
            m.cache();
            a.memory()?;
            Op::Nop
        }
        "exit" => Op::Ret,
        "trap" => Op::Trap { why: "trap" },
        "brkpt" => Op::Trap { why: "breakpoint" },
        _ => return Err("this instruction is not supported".to_owned()),
    })
}

fn fits(written: usize, given: usize, t: Type) -> Decoded<()> {
    match written == given && t.bits() >= 8 && written * t.bytes() <= 32 {
        true => Ok(()),
        false => Err(format!("{given} values for {written} of {t:?}")),
    }
}
