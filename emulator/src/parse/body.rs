//! The body of a kernel. Functions are put in where they are called, so that the executor knows no calls.

use super::decode::{Arg, Args, decode};
use super::lex::Token;
use super::{Cursor, Declared, Function, ParseError, Result, Scene, parameters, show};
use crate::isa::{Address, Instr, Kernel, Op, Operand, Order, Range, SINK, Space, Special, Type};
use std::collections::HashMap;

/// Bytes between arrays that nobody may touch, so that an overrun of one is seen.
const GAP: usize = 32;
/// Functions in functions.
const DEEPEST: usize = 48;
/// Instructions of a kernel, with all functions put in.
const MOST: usize = 1 << 20;

/// What a name stands for.
#[derive(Clone)]
enum Name<'t> {
    Reg(u32),
    Pred(u32),
    /// So many registers, numbered: predicates or not.
    Bank(u32, u32, bool),
    Param(usize),
    Frame(usize),
    Shared(usize),
    Local(usize),
    Targets(Vec<&'t str>),
}

struct Scope<'t> {
    names: HashMap<&'t str, Name<'t>>,
    /// The scope around it; none around a function, which sees no names of its caller.
    parent: Option<usize>,
}

/// A jump whose aim is not known yet.
struct Fix<'t> {
    instr: usize,
    slot: usize,
    scope: usize,
    label: &'t str,
    line: u32,
}

pub(super) struct Builder<'t, 's> {
    c: Cursor<'t>,
    scene: &'s Scene<'t>,
    kernel: Kernel,
    scopes: Vec<Scope<'t>>,
    scope: usize,
    labels: HashMap<(usize, &'t str), u32>,
    fixes: Vec<Fix<'t>>,
    /// Functions being put in, with the instructions that leave the innermost.
    calls: Vec<(&'t str, Vec<usize>)>,
    /// File and line of the source.
    source: (u32, u32),
    /// Where its function was called.
    called: Option<(u32, u32)>,
}

impl<'t, 's> Builder<'t, 's> {
    /// A kernel, from its name on.
    pub(super) fn entry(mut c: Cursor<'t>, scene: &'s Scene<'t>) -> Result<Kernel> {
        let mut kernel = Kernel { name: c.word()?.to_owned(), ..Kernel::default() };
        let mut names = HashMap::new();
        for p in parameters(&mut c)? {
            let at = kernel.param_bytes.next_multiple_of(p.align.max(1));
            names.insert(p.name, Name::Param(at));
            kernel.params.push(Range { name: p.name.to_owned(), at, size: p.size });
            kernel.param_bytes = at + p.size;
            if kernel.param_bytes > 32764 {
                return c.error("more than 32,764 bytes of parameters");
            }
        }
        while !c.eat('{') {
            match c.word()? {
                ".maxntid" | ".reqntid" => {
                    let mut most = 1u64;
                    loop {
                        most = most.saturating_mul(c.number()?);
                        if !c.eat(',') {
                            break;
                        }
                    }
                    kernel.max_threads = most.min(1024) as u32;
                }
                ".minnctapersm" | ".maxnreg" => {
                    c.number()?;
                }
                other => return c.error(format!("{other} is not known of a kernel")),
            }
        }
        let scopes = vec![Scope { names, parent: None }];
        let mut builder = Builder {
            c,
            scene,
            kernel,
            scopes,
            scope: 0,
            labels: HashMap::new(),
            fixes: Vec::new(),
            calls: Vec::new(),
            source: (0, 0),
            called: None,
        };
        builder.block()?;
        let line = builder.c.line();
        builder.push(None, Op::Ret, line)?;
        builder.finish()
    }

    fn finish(mut self) -> Result<Kernel> {
        for fix in &self.fixes {
            let mut scope = Some(fix.scope);
            let mut found = None;
            while let (Some(s), None) = (scope, found) {
                found = self.labels.get(&(s, fix.label)).copied();
                scope = self.scopes[s].parent;
            }
            let Some(at) = found else {
                return Err(ParseError { line: fix.line, what: format!("there is no label {}", fix.label) });
            };
            match &mut self.kernel.code[fix.instr].op {
                Op::Bra { to, .. } => *to = at,
                Op::Brx { to, .. } => to[fix.slot] = at,
                _ => {}
            }
        }
        let dynamic = self.scene.shared.values().filter(|d| d.open).map(|d| d.align).max().unwrap_or(16);
        let end = self.kernel.shared.last().map_or(0, |r| r.at + r.size + GAP);
        self.kernel.dynamic_at = end.next_multiple_of(dynamic.max(128));
        self.kernel.hand_over = self.kernel.code.iter().any(|i| match &i.op {
            Op::Atom { space, block, .. } => *space != Space::Shared && !block,
            Op::Fence { block, .. } => !block,
            Op::Ld { order, .. } | Op::St { order, .. } => *order != Order::Weak,
            _ => false,
        });
        Ok(self.kernel)
    }

    fn push(&mut self, guard: Option<(u32, bool)>, op: Op, line: u32) -> Result<usize> {
        let at = self.kernel.code.len();
        if at >= MOST {
            return Err(ParseError { line, what: "the kernel is too long".to_owned() });
        }
        let (file, source) = self.source;
        self.kernel.code.push(Instr { guard, op, line, source, file, called: self.called });
        Ok(at)
    }

    /// Statements up to the brace that closes them.
    fn block(&mut self) -> Result<()> {
        let outer = self.scope;
        loop {
            match self.c.peek() {
                Some(Token::Punct('}')) if self.scope == outer => {
                    self.c.at += 1;
                    return Ok(());
                }
                Some(Token::Punct('}')) => {
                    self.c.at += 1;
                    self.scope = self.scopes[self.scope].parent.unwrap_or(outer);
                }
                Some(Token::Punct('{')) => {
                    self.c.at += 1;
                    self.open(Some(self.scope));
                }
                Some(Token::Punct(';')) => self.c.at += 1,
                Some(Token::Word(w)) if w.starts_with('.') => {
                    self.c.at += 1;
                    self.directive(w)?;
                }
                Some(Token::Word(w))
                    if self.c.tokens.get(self.c.at + 1).is_some_and(|t| t.0 == Token::Punct(':')) =>
                {
                    self.c.at += 2;
                    self.label(w)?;
                }
                Some(Token::Word(_) | Token::Punct('@')) => self.statement()?,
                other => return self.c.error(format!("{} where an instruction should stand", show(other))),
            }
        }
    }

    fn open(&mut self, parent: Option<usize>) {
        self.scopes.push(Scope { names: HashMap::new(), parent });
        self.scope = self.scopes.len() - 1;
    }

    fn label(&mut self, name: &'t str) -> Result<()> {
        if self.c.eat_word(".branchtargets") {
            let mut labels = Vec::new();
            loop {
                labels.push(self.c.word()?);
                if !self.c.eat(',') {
                    break;
                }
            }
            self.c.want(';')?;
            self.scopes[self.scope].names.insert(name, Name::Targets(labels));
            return Ok(());
        }
        let here = self.kernel.code.len() as u32;
        match self.labels.insert((self.scope, name), here) {
            None => Ok(()),
            Some(_) => self.c.error(format!("the label {name} stands here twice")),
        }
    }

    fn directive(&mut self, word: &'t str) -> Result<()> {
        match word {
            ".loc" => {
                let number = self.c.number()?;
                let Some(&file) = self.scene.files.get(&number) else {
                    return self.c.error(format!("there is no file {number}"));
                };
                let line = self.c.number()? as u32;
                self.c.number()?;
                let mut called = None;
                if self.c.eat(',') {
                    let here = self.c.line();
                    while self.c.peek().is_some() && self.c.line() == here {
                        if self.c.eat_word("inlined_at") {
                            let number = self.c.number()?;
                            let outer = self.scene.files.get(&number).copied();
                            called = outer.zip(Some(self.c.number()? as u32));
                        } else {
                            self.c.at += 1;
                        }
                    }
                }
                // Line 0 says "compiler made": the line before is nearer to the truth.
                if line > 0 {
                    self.source = (file, line);
                    self.called = called;
                }
            }
            ".pragma" => {
                self.c.next()?;
                self.c.want(';')?;
            }
            ".reg" => self.registers()?,
            ".shared" => {
                let d = self.c.declared()?;
                self.c.want(';')?;
                let name = Name::Shared(self.place_shared(&d));
                self.scopes[self.scope].names.insert(d.name, name);
            }
            ".local" => {
                let d = self.c.declared()?;
                self.c.want(';')?;
                let at = self.kernel.local_bytes.next_multiple_of(d.align.max(16));
                self.kernel.local.push(Range { name: d.name.to_owned(), at, size: d.size });
                self.kernel.local_bytes = at + d.size + GAP;
                self.scopes[self.scope].names.insert(d.name, Name::Local(at));
            }
            ".param" => {
                let d = self.c.declared()?;
                self.c.want(';')?;
                let at = self.frame(&d);
                self.scopes[self.scope].names.insert(d.name, Name::Frame(at));
            }
            other => return self.c.error(format!("{other} is not known in a kernel")),
        }
        Ok(())
    }

    fn frame(&mut self, d: &Declared) -> usize {
        let at = self.kernel.frame_bytes.next_multiple_of(d.align.max(8));
        self.kernel.frame_bytes = at + d.size;
        at
    }

    fn place_shared(&mut self, d: &Declared) -> usize {
        let end = self.kernel.shared.last().map_or(0, |r| r.at + r.size + GAP);
        let at = end.next_multiple_of(d.align.max(16));
        self.kernel.shared.push(Range { name: d.name.to_owned(), at, size: d.size });
        self.kernel.static_shared = self.kernel.static_shared.next_multiple_of(d.align) + d.size;
        at
    }

    fn registers(&mut self) -> Result<()> {
        let word = self.c.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
            return self.c.error(format!("registers of {word} are not known"));
        };
        let pred = ty == Type::Pred;
        loop {
            let name = self.c.word()?;
            let mut count = None;
            if self.c.eat('<') {
                count = Some(self.c.size()?);
                self.c.want('>')?;
            }
            let n = count.unwrap_or(1);
            let base = if pred { self.kernel.predicates } else { self.kernel.registers.len() };
            if base + n > 1 << 16 {
                return self.c.error("too many registers");
            }
            if pred {
                self.kernel.predicates += n;
            } else {
                self.kernel.registers.resize(base + n, ty.bits() as u8);
            }
            let entry = match (count, pred) {
                (Some(_), _) => Name::Bank(base as u32, n as u32, pred),
                (None, true) => Name::Pred(base as u32),
                (None, false) => Name::Reg(base as u32),
            };
            self.scopes[self.scope].names.insert(name, entry);
            if !self.c.eat(',') {
                break;
            }
        }
        self.c.want(';')
    }

    fn look_up(&self, word: &str) -> Option<Name<'t>> {
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
            return if negated { self.c.error(format!("{word} is not known")) } else { Ok(Arg::Label(word)) };
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
            Arg::Label(l) => self.c.error(format!("{l} is not known")),
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

    fn argument(&mut self) -> Result<Arg<'t>> {
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
                    None => return self.c.error(format!("{w} is not known")),
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

    fn statement(&mut self) -> Result<()> {
        let line = self.c.line();
        let mut guard = None;
        if self.c.eat('@') {
            let negated = self.c.eat('!');
            let word = self.c.word()?;
            match self.look_up(word) {
                Some(Name::Pred(p)) => guard = Some((p, negated)),
                _ => return self.c.error(format!("{word} is not a predicate")),
            }
        }
        let opcode = self.c.word()?;
        match opcode {
            "call" | "call.uni" => return self.call(guard, line),
            "ret" | "ret.uni" => {
                self.c.want(';')?;
                return match self.calls.len() {
                    0 => self.push(guard, Op::Ret, line).map(|_| ()),
                    _ => {
                        let at = self.push(guard, Op::Bra { to: u32::MAX, uniform: false }, line)?;
                        if let Some(call) = self.calls.last_mut() {
                            call.1.push(at);
                        }
                        Ok(())
                    }
                };
            }
            _ => {}
        }
        let mut args = Vec::new();
        while !self.c.eat(';') {
            args.push(self.argument()?);
            if !self.c.eat(',') && self.c.peek() != Some(&Token::Punct(';')) {
                return self
                    .c
                    .error(format!("expected ',' or ';' in {opcode}, found {}", show(self.c.peek())));
            }
        }
        if matches!(opcode, "bra" | "bra.uni") {
            let [Arg::Label(label)] = args[..] else { return self.c.error("bra takes a label") };
            let instr = self.push(guard, Op::Bra { to: u32::MAX, uniform: opcode == "bra.uni" }, line)?;
            self.fixes.push(Fix { instr, slot: 0, scope: self.scope, label, line });
            return Ok(());
        }
        if matches!(opcode, "brx.idx" | "brx.idx.uni") {
            let [Arg::One(i), Arg::Label(table)] = args[..] else {
                return self.c.error("brx takes an index and a list");
            };
            let Some(Name::Targets(labels)) = self.look_up(table) else {
                return self.c.error(format!("{table} is not a list of labels"));
            };
            let instr = self.push(guard, Op::Brx { to: vec![u32::MAX; labels.len()], i }, line)?;
            for (slot, label) in labels.into_iter().enumerate() {
                self.fixes.push(Fix { instr, slot, scope: self.scope, label, line });
            }
            return Ok(());
        }
        let op = decode(opcode, Args::new(args))
            .map_err(|what| ParseError { line, what: format!("{opcode}: {what}") })?;
        self.push(guard, op, line).map(|_| ())
    }

    /// Puts a function in.
    fn call(&mut self, guard: Option<(u32, bool)>, line: u32) -> Result<()> {
        let list = |b: &mut Self| -> Result<Vec<&'t str>> {
            let mut all = Vec::new();
            b.c.want('(')?;
            while !b.c.eat(')') {
                all.push(b.c.word()?);
                b.c.eat(',');
            }
            Ok(all)
        };
        let mut results = Vec::new();
        if self.c.peek() == Some(&Token::Punct('(')) {
            results = list(self)?;
            self.c.want(',')?;
        }
        let name = self.c.word()?;
        let mut given = Vec::new();
        if self.c.eat(',') {
            given = list(self)?;
        }
        if !self.c.eat(';') {
            return self.c.error("calls through a pointer are not known");
        }
        if name == "__assertfail" {
            self.push(guard, Op::Trap { why: "an assertion failed" }, line)?;
            return Ok(());
        }
        let Some(Function { results: r, params: p, body: Some(body) }) =
            self.scene.functions.get(name).cloned()
        else {
            return self.c.error(format!("the function {name} has no body here"));
        };
        if self.calls.iter().any(|c| c.0 == name) || self.calls.len() >= DEEPEST {
            return self.c.error(format!("{name} calls itself, which is not known"));
        }
        if r.len() != results.len() || p.len() != given.len() {
            return self.c.error(format!("{name} takes {} and gives {}", p.len(), r.len()));
        }
        let mut names = HashMap::new();
        for (formal, actual) in r.iter().chain(&p).zip(results.iter().chain(&given)) {
            match self.look_up(actual) {
                Some(Name::Frame(at)) => names.insert(formal.name, Name::Frame(at)),
                _ => return self.c.error(format!("{actual} is not a parameter")),
            };
        }
        // Lanes that do not call jump over the function.
        let over = match guard {
            Some((p, negated)) => {
                Some(self.push(Some((p, !negated)), Op::Bra { to: u32::MAX, uniform: false }, line)?)
            }
            None => None,
        };
        let back = (self.c.at, self.scope, self.source, self.called);
        self.calls.push((name, Vec::new()));
        self.open(None);
        self.scopes[self.scope].names = names;
        self.c.at = body;
        self.block()?;
        (self.c.at, self.scope, self.source, self.called) = back;
        let leaving = self.calls.pop().map(|c| c.1).unwrap_or_default();
        let here = self.kernel.code.len() as u32;
        for at in leaving.into_iter().chain(over) {
            if let Op::Bra { to, .. } = &mut self.kernel.code[at].op {
                *to = here;
            }
        }
        // So that a jump to the end has an aim.
        self.push(None, Op::Nop, line).map(|_| ())
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
