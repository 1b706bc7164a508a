//! PTX text to tokens.

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A word: opcode, directive, register or name.
    Word(&'t str),
    /// A number's bits.
    Num(u64),
    /// A string.
    Text(&'t str),
    /// Anything else.
    Punct(char),
}

fn word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'$' | b'%')
}

fn number(t: &str) -> Option<u64> {
    let hex = |digits: &str, bits: usize| {
        (digits.len() == bits / 4).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    match t.as_bytes() {
        [b'0', b'f' | b'F', ..] => hex(&t[2..], 32),
        [b'0', b'd' | b'D', ..] => hex(&t[2..], 64),
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(t[2..].trim_end_matches('U'), 16).ok(),
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(t[2..].trim_end_matches('U'), 2).ok(),
        _ => t.trim_end_matches('U').parse().ok(),
    }
}

/// All tokens, each with its line.
pub(super) fn lex(text: &str) -> Result<Vec<(Token<'_>, u32)>, (u32, String)> {
    let b = text.as_bytes();
    let (mut i, mut line) = (0, 1u32);
    let mut tokens = Vec::new();
    while i < b.len() {
        let c = b[i];
        let begun = i;
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            i += 1;
        } else if b[i..].starts_with(b"//") {
            i += b[i..].iter().position(|&c| c == b'\n').unwrap_or(b.len() - i);
        } else if b[i..].starts_with(b"/*") {
            let end = b[i + 2..].windows(2).position(|w| w == b"*/");
            let end = end.ok_or_else(|| (line, "a comment is not closed".to_owned()))? + i + 4;
            line += b[i..end].iter().filter(|&&c| c == b'\n').count() as u32;
            i = end;
        } else if c == b'"' {
            let end = b[i + 1..].iter().position(|&c| c == b'"' || c == b'\n');
            let end = end
                .filter(|n| b[i + 1 + n] == b'"')
                .ok_or_else(|| (line, "a string has no end".to_owned()))?;
            tokens.push((Token::Text(&text[i + 1..i + 1 + end]), line));
            i += end + 2;
        } else if c.is_ascii_digit() {
            while i < b.len() && (b[i].is_ascii_alphanumeric() || b[i] == b'_') {
                i += 1;
            }
            let t = &text[begun..i];
            match number(t) {
                Some(n) => tokens.push((Token::Num(n), line)),
                // A mangled name may begin with a digit in debug sections only.
                None => return Err((line, format!("'{t}' is not a number"))),
            }
        } else if word(c) {
            loop {
                if i < b.len() && word(b[i]) {
                    i += 1;
                } else if b[i..].starts_with(b"::") && b.get(i + 2).is_some_and(|&c| word(c)) {
                    i += 2;
                } else {
                    break;
                }
            }
            tokens.push((Token::Word(&text[begun..i]), line));
        } else if c.is_ascii() {
            tokens.push((Token::Punct(c as char), line));
            i += 1;
        } else {
            return Err((line, "a byte that is not ASCII".to_owned()));
        }
    }
    Ok(tokens)
}
