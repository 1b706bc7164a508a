//! The body of a kernel. Functions are put in where they are called, so that the executor knows no calls.

use super::decode::decode;
use super::lex::Token;
use super::parts::{Arg, Args};
use super::{Cursor, Declared, Function, ParseError, Result, Scene, parameters, show};
use crate::isa::{Instr, Kernel, Op, Order, Range, Space, Type};
use std::collections::HashMap;

/// Bytes between arrays that nobody may touch, so that an overrun of one is seen.
const GAP: usize = 32;
/// Functions in functions.
const DEEPEST: usize = 48;
/// Instructions of a kernel, with all functions put in.
const MOST: usize = 1 << 20;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Name<'t> {
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

pub(super) struct Scope<'t> {
    pub(super) names: HashMap<&'t str, Name<'t>>,
    /// The scope around it; none around a function, which sees no names of its caller.
    pub(super) parent: Option<usize>,
}

/// A jump whose target is not known yet.
struct Fix<'t> {
    instr: usize,
    slot: usize,
    scope: usize,
    label: &'t str,
    line: u32,
}

pub(super) struct Builder<'t, 's> {
    pub(super) c: Cursor<'t>,
    pub(super) scene: &'s Scene<'t>,
    pub(super) kernel: Kernel,
    pub(super) scopes: Vec<Scope<'t>>,
    pub(super) scope: usize,
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
                other => return c.error(format!("{other} is not supported in a kernel")),
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
                other => return self.c.error(format!("expected an instruction, found {}", show(other))),
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
            Some(_) => self.c.error(format!("the label {name} is defined twice")),
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
            other => return self.c.error(format!("{other} is not supported in a kernel")),
        }
        Ok(())
    }

    fn frame(&mut self, d: &Declared) -> usize {
        let at = self.kernel.frame_bytes.next_multiple_of(d.align.max(8));
        self.kernel.frame_bytes = at + d.size;
        at
    }

    pub(super) fn place_shared(&mut self, d: &Declared) -> usize {
        let end = self.kernel.shared.last().map_or(0, |r| r.at + r.size + GAP);
        let at = end.next_multiple_of(d.align.max(16));
        self.kernel.shared.push(Range { name: d.name.to_owned(), at, size: d.size });
        self.kernel.static_shared = self.kernel.static_shared.next_multiple_of(d.align) + d.size;
        at
    }

    fn registers(&mut self) -> Result<()> {
        let word = self.c.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
            return self.c.error(format!("registers of {word} are not supported"));
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
            return self.c.error("calls through a pointer are not supported");
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
            return self.c.error(format!("{name} calls itself, which is not supported"));
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
