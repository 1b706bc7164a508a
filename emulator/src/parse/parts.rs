//! The parts of an opcode and its arguments, taken one by one: what remains is not supported.

use super::operand::taker;
use crate::isa::{Address, Mode, Operand, Order, Round, SINK, Space, Type};

pub(super) type Decoded<T> = std::result::Result<T, String>;

/// An argument as it is written.
#[derive(Clone, Debug)]
pub(super) enum Arg<'t> {
    One(Operand),
    /// `p|q`
    Pair(Operand, Operand),
    /// `{a, b}`
    List(Vec<Operand>),
    /// `[a+4, {x, y}]`, and where a parameter lives.
    Memory(Address, Option<Space>, Vec<Operand>),
    Label(&'t str),
}

/// Arguments, taken one after another.
pub(super) struct Args<'t> {
    rest: std::vec::IntoIter<Arg<'t>>,
}

impl<'t> Args<'t> {
    pub(super) fn new(all: Vec<Arg<'t>>) -> Self {
        Args { rest: all.into_iter() }
    }
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }
    pub(super) fn next(&mut self) -> Decoded<Arg<'t>> {
        self.rest.next().ok_or_else(|| "an argument is missing".to_owned())
    }
    pub(super) fn one(&mut self) -> Decoded<Operand> {
        match self.next()? {
            Arg::One(o) => Ok(o),
            Arg::Label(l) => Err(format!("{l} is not declared")),
            other => Err(format!("expected a register or a number, found {other:?}")),
        }
    }
    /// A value that is not a predicate.
    pub(super) fn value(&mut self) -> Decoded<Operand> {
        match self.one()? {
            Operand::Pred(..) | Operand::Sink => Err("expected a value, found a predicate".to_owned()),
            other => Ok(other),
        }
    }
    pub(super) fn predicate(&mut self) -> Decoded<Operand> {
        match self.one()? {
            o @ (Operand::Pred(..) | Operand::Imm(_)) => Ok(o),
            other => Err(format!("expected a predicate, found {other:?}")),
        }
    }
    pub(super) fn taker(&mut self) -> Decoded<u32> {
        taker(self.one()?)
    }
    pub(super) fn pred_taker(&mut self) -> Decoded<u32> {
        pred_taker(self.one()?)
    }
    /// `p|q`, or `p` alone.
    pub(super) fn takers(&mut self, first: fn(Operand) -> Decoded<u32>) -> Decoded<(u32, u32)> {
        match self.next()? {
            Arg::One(o) => Ok((first(o)?, SINK)),
            Arg::Pair(a, b) => Ok((first(a)?, pred_taker(b)?)),
            other => Err(format!("expected a register, found {other:?}")),
        }
    }
    /// `{a, b}`, or one alone.
    pub(super) fn list(&mut self) -> Decoded<Vec<Operand>> {
        let all = match self.next()? {
            Arg::One(o) => vec![o],
            Arg::List(all) => all,
            other => return Err(format!("expected a list, found {other:?}")),
        };
        match all.iter().any(|o| matches!(o, Operand::Pred(..))) {
            true => Err("a predicate in a list".to_owned()),
            false => Ok(all),
        }
    }
    pub(super) fn take_list(&mut self) -> Decoded<Vec<u32>> {
        self.list()?.into_iter().map(taker).collect()
    }
    pub(super) fn memory(&mut self) -> Decoded<(Address, Option<Space>)> {
        match self.next()? {
            Arg::Memory(a, space, at) if at.is_empty() => Ok((a, space)),
            other => Err(format!("expected an address, found {other:?}")),
        }
    }
    pub(super) fn box_at(&mut self) -> Decoded<(Address, Vec<Operand>)> {
        match self.next()? {
            Arg::Memory(a, _, at) if !at.is_empty() => Ok((a, at)),
            other => Err(format!("expected [map, {{...}}], found {other:?}")),
        }
    }
    pub(super) fn imm(&mut self) -> Decoded<u64> {
        match self.one()? {
            Operand::Imm(n) => Ok(n),
            other => Err(format!("expected a constant, found {other:?}")),
        }
    }
}

pub(super) fn pred_taker(o: Operand) -> Decoded<u32> {
    match o {
        Operand::Pred(p, false) => Ok(p),
        Operand::Sink => Ok(SINK),
        other => Err(format!("{other:?} is not a predicate register")),
    }
}

/// The parts of an opcode behind its first.
pub(super) struct Mods<'o> {
    parts: Vec<Option<&'o str>>,
}

impl<'o> Mods<'o> {
    pub(super) fn new(parts: impl Iterator<Item = &'o str>) -> Self {
        Mods { parts: parts.map(Some).collect() }
    }
    /// Whether a part is there; it counts as known then.
    pub(super) fn take(&mut self, name: &str) -> bool {
        match self.parts.iter_mut().find(|p| **p == Some(name)) {
            Some(p) => {
                *p = None;
                true
            }
            None => false,
        }
    }
    /// The first of some parts that is there.
    pub(super) fn pick<T: Copy>(&mut self, names: &[(&str, T)]) -> Option<T> {
        names.iter().find(|(n, _)| self.take(n)).map(|(_, t)| *t)
    }
    /// The first part that something can be made of.
    pub(super) fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        for p in &mut self.parts {
            if let Some(found) = p.and_then(&f) {
                *p = None;
                return Some(found);
            }
        }
        None
    }
    pub(super) fn ty(&mut self) -> Decoded<Type> {
        self.find(Type::parse).ok_or_else(|| "it has no type".to_owned())
    }
    pub(super) fn space(&mut self) -> Space {
        self.pick(&[
            ("global", Space::Global),
            ("const", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
        ])
        .unwrap_or(Space::Generic)
    }
    pub(super) fn order(&mut self) -> Order {
        const ORDERS: [(&str, Order); 7] = [
            ("weak", Order::Weak),
            ("relaxed", Order::Relaxed),
            ("volatile", Order::Relaxed),
            ("acquire", Order::Acquire),
            ("release", Order::Release),
            ("acq_rel", Order::AcqRel),
            ("sc", Order::AcqRel),
        ];
        self.pick(&ORDERS).unwrap_or_default()
    }
    /// Whether only the block is meant.
    pub(super) fn block(&mut self) -> bool {
        self.pick(&[("cta", true), ("cluster", false), ("gpu", false), ("sys", false), ("gl", false)])
            .unwrap_or_default()
    }
    /// Hints for the caches, which change no result.
    pub(super) fn cache(&mut self) {
        let hint = |p: &str| {
            let level = p.starts_with("L1::") || p.starts_with("L2::");
            (level || matches!(p, "ca" | "cg" | "cs" | "cv" | "lu" | "wb" | "wt")).then_some(())
        };
        while self.find(hint).is_some() {}
    }
    pub(super) fn mode(&mut self) -> Mode {
        let rounds = [
            ("rn", (Round::Near, false)),
            ("rz", (Round::Zero, false)),
            ("rm", (Round::Down, false)),
            ("rp", (Round::Up, false)),
            ("rna", (Round::Away, false)),
            ("rni", (Round::Near, true)),
            ("rzi", (Round::Zero, true)),
            ("rmi", (Round::Down, true)),
            ("rpi", (Round::Up, true)),
        ];
        let (round, integral) = self.pick(&rounds).unwrap_or_default();
        let (ftz, sat) = (self.take("ftz"), self.take("sat") || self.take("satfinite"));
        let approx = self.take("approx") || self.take("full");
        Mode { round, integral, ftz, sat, approx, nan: self.take("NaN"), relu: self.take("relu") }
    }
    pub(super) fn done(&self) -> Decoded<()> {
        match self.parts.iter().flatten().next() {
            Some(p) => Err(format!(".{p} is not supported here")),
            None => Ok(()),
        }
    }
}
