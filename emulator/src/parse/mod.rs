//! PTX text to kernels. What is not supported is refused with its line, never skipped.

mod body;
mod decode;
mod lex;
mod operand;
mod parts;
mod tensor;

use crate::isa::{Module, Type, Variable};
use body::Builder;
use lex::{Token, lex};
use std::collections::HashMap;
use std::fmt;

/// PTX that cannot be run, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct ParseError {
    /// Line of the PTX.
    pub line: u32,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for ParseError {}

pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// A place in the tokens.
#[derive(Clone)]
struct Cursor<'t> {
    tokens: &'t [(Token<'t>, u32)],
    at: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<&'t Token<'t>> {
        self.tokens.get(self.at).map(|t| &t.0)
    }
    /// Line of the next token, or of the last.
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.1)
    }
    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(ParseError { line: self.line(), what: what.into() })
    }
    fn next(&mut self) -> Result<&'t Token<'t>> {
        match self.tokens.get(self.at) {
            Some((token, _)) => {
                self.at += 1;
                Ok(token)
            }
            None => self.error("unexpected end of the text"),
        }
    }
    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(&Token::Punct(c));
        self.at += found as usize;
        found
    }
    fn eat_word(&mut self, w: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if *found == w);
        self.at += found as usize;
        found
    }
    fn want(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.error(format!("expected '{c}', found {}", show(self.peek()))) }
    }
    fn word(&mut self) -> Result<&'t str> {
        match self.peek() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            other => self.error(format!("expected a name, found {}", show(other))),
        }
    }
    fn number(&mut self) -> Result<u64> {
        match self.peek() {
            Some(Token::Num(n)) => {
                self.at += 1;
                Ok(*n)
            }
            other => self.error(format!("expected a number, found {}", show(other))),
        }
    }
    /// A size in bytes, of something that has to fit into memory.
    fn size(&mut self) -> Result<usize> {
        match self.number()? {
            n if n <= 1 << 28 => Ok(n as usize),
            n => self.error(format!("{n} is too large")),
        }
    }
    /// Over the rest of a line.
    fn skip_line(&mut self) {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |t| t.1);
        while self.peek().is_some() && self.line() == line {
            self.at += 1;
        }
    }
    /// Over a block in braces, the first of which has been taken.
    fn skip_block(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }
    /// `.align 4 .b8 name[16]`, as it stands after the state space.
    fn declared(&mut self) -> Result<Declared<'t>> {
        let (mut align, mut ty, mut vector) = (None, None, 1);
        loop {
            let word = self.word()?;
            match word {
                ".align" => align = Some(self.size()?),
                ".ptr" => {
                    // What a pointer points to is of no matter here.
                    while matches!(
                        self.peek(),
                        Some(Token::Word(".global" | ".shared" | ".const" | ".local"))
                    ) {
                        self.at += 1;
                    }
                    if self.eat_word(".align") {
                        self.size()?;
                    }
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                _ if word.starts_with('.') => match Type::parse(&word[1..]) {
                    Some(t) if t != Type::Pred => ty = Some(t),
                    _ => return self.error(format!("{word} is not supported in a declaration")),
                },
                name => {
                    let Some(ty) = ty else { return self.error(format!("{name} has no type")) };
                    let unit = ty.bytes() * vector;
                    let (mut size, mut open) = (unit, false);
                    while self.eat('[') {
                        if self.eat(']') {
                            open = true;
                            continue;
                        }
                        size = size.saturating_mul(self.size()?);
                        self.want(']')?;
                    }
                    let align = align.unwrap_or(unit).max(1);
                    if !align.is_power_of_two() || align > 4096 || size > 1 << 26 {
                        return self.error(format!("the size or alignment of {name} is not valid"));
                    }
                    return Ok(Declared { name, align, ty, size: if open { 0 } else { size }, open });
                }
            }
        }
    }
}

fn show(token: Option<&Token>) -> String {
    match token {
        None => "the end".to_owned(),
        Some(Token::Word(w)) => format!("'{w}'"),
        Some(Token::Num(n)) => format!("{n}"),
        Some(Token::Text(t)) => format!("\"{t}\""),
        Some(Token::Punct(c)) => format!("'{c}'"),
    }
}

/// A variable as it is declared.
#[derive(Clone, Debug)]
struct Declared<'t> {
    name: &'t str,
    align: usize,
    ty: Type,
    size: usize,
    /// Its size is left open.
    open: bool,
}

/// A function: where its parameters and its body stand.
#[derive(Clone)]
struct Function<'t> {
    results: Vec<Declared<'t>>,
    params: Vec<Declared<'t>>,
    /// Behind the brace that opens the body; `None` if it is only declared.
    body: Option<usize>,
}

/// What a module holds beside its kernels.
#[derive(Default)]
struct Scene<'t> {
    functions: HashMap<&'t str, Function<'t>>,
    variables: HashMap<&'t str, u32>,
    shared: HashMap<&'t str, Declared<'t>>,
    /// Names of `.file`, by number.
    files: HashMap<u64, u32>,
}

/// Parses a module as NVRTC writes it.
pub fn parse(text: &str) -> Result<Module> {
    let tokens = lex(text).map_err(|(line, what)| ParseError { line, what })?;
    let mut c = Cursor { tokens: &tokens, at: 0 };
    let mut module = Module::default();
    let mut scene = Scene::default();
    let mut entries = Vec::new();
    while c.peek().is_some() {
        item(&mut c, &mut module, &mut scene, &mut entries)?;
    }
    for at in entries {
        let kernel = Builder::entry(Cursor { tokens: &tokens, at }, &scene)?;
        if module.kernels.iter().any(|k| k.name == kernel.name) {
            return c.error(format!("the kernel {} is defined twice", kernel.name));
        }
        module.kernels.push(kernel);
    }
    Ok(module)
}

fn item<'t>(
    c: &mut Cursor<'t>,
    module: &mut Module,
    scene: &mut Scene<'t>,
    entries: &mut Vec<usize>,
) -> Result<()> {
    let mut linked = "";
    let mut word = c.word()?;
    while matches!(word, ".visible" | ".weak" | ".extern" | ".common") {
        linked = word;
        word = c.word()?;
    }
    match word {
        ".version" => {
            let line = c.line();
            while c.peek().is_some() && c.line() == line {
                module.version += &match c.next()? {
                    Token::Num(n) => n.to_string(),
                    Token::Word(w) => (*w).to_owned(),
                    other => return c.error(format!("{} in a version", show(Some(other)))),
                };
            }
        }
        ".target" => {
            module.target = c.word()?.to_owned();
            c.skip_line();
        }
        ".address_size" => {
            if c.number()? != 64 {
                return c.error("only addresses of 64 bits are supported");
            }
        }
        ".file" => {
            let number = c.number()?;
            let Token::Text(name) = c.next()? else { return c.error("expected the name of a file") };
            scene.files.insert(number, module.files.len() as u32);
            module.files.push((*name).to_owned());
            c.skip_line();
        }
        ".section" => {
            c.word()?;
            c.want('{')?;
            c.skip_block()?;
        }
        ".pragma" => {
            c.next()?;
            c.want(';')?;
        }
        ".entry" => {
            entries.push(c.at);
            while !c.eat('{') {
                c.next()?;
            }
            c.skip_block()?;
        }
        ".func" => function(c, scene)?,
        ".shared" => {
            let declared = c.declared()?;
            c.want(';')?;
            scene.shared.insert(declared.name, declared);
        }
        ".global" | ".const" if linked == ".extern" => {
            return c.error("variables of other modules cannot be linked");
        }
        ".global" | ".const" => {
            let d = c.declared()?;
            let data = initial(c, &d)?;
            scene.variables.insert(d.name, module.variables.len() as u32);
            module.variables.push(Variable { name: d.name.to_owned(), data, constant: word == ".const" });
        }
        other => return c.error(format!("{other} is not supported in a module")),
    }
    Ok(())
}

/// What a variable holds at first, up to the semicolon.
fn initial(c: &mut Cursor, d: &Declared) -> Result<Vec<u8>> {
    let mut data = vec![0; d.size];
    if !c.eat('=') {
        c.want(';')?;
        return Ok(data);
    }
    let unit = d.ty.bytes();
    let mut put = |at: usize, c: &mut Cursor| -> Result<()> {
        let negative = c.eat('-');
        let n = c.number()?;
        let n = if negative { n.wrapping_neg() } else { n };
        match data.get_mut(at * unit..(at + 1) * unit) {
            Some(place) => {
                place.copy_from_slice(&n.to_le_bytes()[..unit]);
                Ok(())
            }
            None => c.error(format!("{} has more values than elements", d.name)),
        }
    };
    if c.eat('{') {
        let mut at = 0;
        while !c.eat('}') {
            if matches!(c.peek(), Some(Token::Word(_) | Token::Punct('{'))) {
                return c.error(format!("{}: only numbers are known as first values", d.name));
            }
            put(at, c)?;
            at += 1;
            if !c.eat(',') && c.peek() != Some(&Token::Punct('}')) {
                return c.error("expected ',' or '}'");
            }
        }
    } else {
        put(0, c)?;
    }
    c.want(';')?;
    Ok(data)
}

fn parameters<'t>(c: &mut Cursor<'t>) -> Result<Vec<Declared<'t>>> {
    let mut all = Vec::new();
    if c.eat('(') {
        while !c.eat(')') {
            if !c.eat_word(".param") {
                return c.error("expected .param");
            }
            all.push(c.declared()?);
            c.eat(',');
        }
    }
    Ok(all)
}

fn function<'t>(c: &mut Cursor<'t>, scene: &mut Scene<'t>) -> Result<()> {
    let results = parameters(c)?;
    let name = c.word()?;
    let params = parameters(c)?;
    while let Some(Token::Word(w)) = c.peek() {
        match *w {
            ".noreturn" => c.at += 1,
            ".abi_preserve" | ".abi_preserve_control" | ".unique_stack" => {
                c.at += 1;
                c.eat('(');
                c.number()?;
                c.eat(')');
            }
            other => return c.error(format!("{other} is not supported in a function")),
        }
    }
    let body = c.eat('{').then_some(c.at);
    match body {
        Some(_) => c.skip_block()?,
        None => c.want(';')?,
    }
    let known = scene.functions.get(name).is_some_and(|f| f.body.is_some());
    if !known {
        scene.functions.insert(name, Function { results, params, body });
    }
    Ok(())
}
