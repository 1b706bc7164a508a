//! Operands: what a name stands for where it is used, and what it gives.

use super::Result;
use super::body::{Builder, Name};
use super::lex::Token;
use super::parts::Arg;
use crate::isa::{Address, Operand, SINK, Space, Special};

impl<'t> Builder<'t, '_> {
    pub(super) fn look_up(&self, word: &str) -> Option<Name<'t>> {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = word[stem.len()..].parse().ok();
        let mut scope = Some(self.scope);
        while let Some(s) = scope {
            if let Some(found) = self.scopes[s].names.get(word) {
                return Some(found.clone());
            }
            if let (Some(n), Some(Name::Bank(base, count, pred))) = (number, self.scopes[s].names.get(stem))
                && n < *count
            {
                return Some(if *pred { Name::Pred(base + n) } else { Name::Reg(base + n) });
            }
            scope = self.scopes[s].parent;
        }
        None
    }

    /// What a word gives, if it is not a label; of a parameter also where it lives.
    fn value(&mut self, word: &'t str) -> Option<(Operand, Option<Space>)> {
        let plain = |o| Some((o, None));
        if word == "_" {
            return plain(Operand::Sink);
        }
        match self.look_up(word) {
            Some(Name::Reg(r)) => return plain(Operand::Reg(r)),
            Some(Name::Pred(p)) => return plain(Operand::Pred(p, false)),
            Some(Name::Shared(at) | Name::Local(at)) => return plain(Operand::Imm(at as u64)),
            Some(Name::Param(at)) => return Some((Operand::Imm(at as u64), Some(Space::Param))),
            Some(Name::Frame(at)) => return Some((Operand::Imm(at as u64), Some(Space::Frame))),
            Some(Name::Bank(..) | Name::Targets(_)) | None => {}
        }
        if let Some(s) = special(word) {
            return plain(Operand::Special(s));
        }
        if let Some(d) = self.scene.shared.get(word) {
            if d.open {
                return plain(Operand::Special(Special::DynamicAt(0)));
            }
            let known = self.kernel.shared.iter().find(|r| r.name == word).map(|r| r.at);
            let at = known.unwrap_or_else(|| self.place_shared(d));
            return plain(Operand::Imm(at as u64));
        }
        self.scene.variables.get(word).and_then(|&v| plain(Operand::Var(v, 0)))
    }

    fn offset(&mut self) -> Result<i64> {
        let mut sum = 0i64;
        loop {
            let negative = match self.c.peek() {
                Some(Token::Punct('+')) => false,
                Some(Token::Punct('-')) => true,
                _ => return Ok(sum),
            };
            self.c.at += 1;
            let negative = negative ^ self.c.eat('-');
            let n = self.c.number()? as i64;
            sum = sum.wrapping_add(if negative { n.wrapping_neg() } else { n });
        }
    }

    fn operand(&mut self) -> Result<Arg<'t>> {
        if self.c.eat('-') {
            return Ok(Arg::One(Operand::Imm(self.c.number()?.wrapping_neg())));
        }
        if let Some(Token::Num(n)) = self.c.peek() {
            self.c.at += 1;
            return Ok(Arg::One(Operand::Imm(*n)));
        }
        let negated = self.c.eat('!');
        let word = self.c.word()?;
        let Some((found, _)) = self.value(word) else {
            return if negated {
                self.c.error(format!("{word} is not supported"))
            } else {
                Ok(Arg::Label(word))
            };
        };
        let offset = self.offset()?;
        Ok(Arg::One(match found {
            Operand::Pred(p, _) => Operand::Pred(p, negated),
            _ if negated => return self.c.error(format!("{word} is not a predicate")),
            Operand::Imm(n) => Operand::Imm(n.wrapping_add_signed(offset)),
            Operand::Var(v, at) => Operand::Var(v, at + offset),
            Operand::Special(Special::DynamicAt(at)) => {
                Operand::Special(Special::DynamicAt(at.wrapping_add_signed(offset as i32)))
            }
            other if offset == 0 => other,
            _ => return self.c.error(format!("{word} cannot be added to")),
        }))
    }

    fn one(&mut self) -> Result<Operand> {
        match self.operand()? {
            Arg::One(o) => Ok(o),
            Arg::Label(l) => self.c.error(format!("{l} is not declared")),
            _ => self.c.error("expected a register or a number"),
        }
    }

    fn list(&mut self) -> Result<Vec<Operand>> {
        let mut all = Vec::new();
        while !self.c.eat('}') {
            all.push(self.one()?);
            self.c.eat(',');
        }
        Ok(all)
    }

    pub(super) fn argument(&mut self) -> Result<Arg<'t>> {
        if self.c.eat('{') {
            return Ok(Arg::List(self.list()?));
        }
        if !self.c.eat('[') {
            let first = self.operand()?;
            if !self.c.eat('|') {
                return Ok(first);
            }
            let second = self.one()?;
            let Arg::One(first) = first else { return self.c.error("expected a register before '|'") };
            return Ok(Arg::Pair(first, second));
        }
        let (base, space) = match self.c.peek() {
            Some(Token::Word(w)) => {
                self.c.at += 1;
                match self.value(w) {
                    Some(found) => found,
                    None => return self.c.error(format!("{w} is not supported")),
                }
            }
            _ => (Operand::Imm(self.c.number()?), None),
        };
        if matches!(base, Operand::Pred(..) | Operand::Sink) {
            return self.c.error("a predicate is not an address");
        }
        let offset = self.offset()?;
        let mut at = Vec::new();
        if self.c.eat(',') {
            self.c.want('{')?;
            at = self.list()?;
        }
        self.c.want(']')?;
        Ok(Arg::Memory(Address { base, offset }, space, at))
    }
}

fn special(word: &str) -> Option<Special> {
    let axis = |rest: &str| match rest {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((stem, rest)) = word.split_once('.') {
        let make = match stem {
            "%tid" => Special::Tid,
            "%ntid" => Special::Ntid,
            "%ctaid" => Special::Ctaid,
            "%nctaid" => Special::Nctaid,
            "%cluster_ctaid" => |_| Special::Fixed(0),
            "%clusterid" => Special::Ctaid,
            "%nclusterid" => Special::Nctaid,
            "%cluster_nctaid" => |_| Special::Fixed(1),
            _ => return None,
        };
        return axis(rest).map(make);
    }
    Some(match word {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%lanemask_eq" => Special::MaskEq,
        "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%cluster_ctarank" | "%smid" | "%gridid" => Special::Fixed(0),
        "%cluster_nctarank" | "%nsmid" => Special::Fixed(1),
        "WARP_SZ" => Special::Fixed(32),
        _ => return None,
    })
}

/// A register that takes a value.
pub(super) fn taker(o: Operand) -> std::result::Result<u32, String> {
    match o {
        Operand::Reg(r) => Ok(r),
        Operand::Sink => Ok(SINK),
        other => Err(format!("{other:?} cannot take a value")),
    }
}
