//! Lines of a text file with their exact place. A line that is too long is skipped, never held in memory.

use std::io::{self, BufRead};

/// The longest line (CSV: the longest record) that is read.
pub(super) const MAX_LINE: usize = 8 << 20;

/// Reads lines and hashes every byte that passes.
pub(super) struct Lines<R> {
    inner: R,
    hash: blake3::Hasher,
    next_byte: u64,
    next_line: u64,
}

/// Where a line is: its number from 1, its first byte from 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub line: u64,
    pub byte: u64,
    /// The line did not fit; what the buffer holds of it is worthless.
    pub too_long: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hash: blake3::Hasher::new(), next_byte: 0, next_line: 1 }
    }

    /// Appends the next line with its terminator to `buf`, which never grows past [`MAX_LINE`].
    pub fn next(&mut self, buf: &mut Vec<u8>) -> io::Result<Option<At>> {
        let mut at = At { line: self.next_line, byte: self.next_byte, too_long: false };
        loop {
            let chunk = match self.inner.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let end = chunk.iter().position(|b| *b == b'\n').map(|i| i + 1);
            let taken = &chunk[..end.unwrap_or(chunk.len())];
            let n = taken.len();
            self.hash.update(taken);
            at.too_long |= buf.len() + n > MAX_LINE;
            if !at.too_long {
                buf.extend_from_slice(taken);
            }
            self.inner.consume(n);
            self.next_byte += n as u64;
            if end.is_some() || n == 0 {
                self.next_line += 1;
                return Ok((self.next_byte > at.byte).then_some(at));
            }
        }
    }

    /// BLAKE3 of all bytes read so far, in hexadecimal.
    pub fn hash(&self) -> String {
        self.hash.finalize().to_hex().to_string()
    }
}

/// A line without its `\n` or `\r\n`.
pub(super) fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
