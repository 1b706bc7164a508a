//! Global memory: buffers far apart, so that an address names its buffer and every byte beyond it is a fault.

use crate::finding::Kind;
use crate::isa::Operand;
use crate::shadow::Shadow;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bits of an address within a buffer.
const BITS: u32 = 36;
/// Where shared memory lies in generic addresses.
pub(crate) const SHARED: u64 = 1 << BITS;
/// Where the memory of a thread lies in generic addresses.
pub(crate) const LOCAL: u64 = 2 << BITS;
/// Where the parameters lie in generic addresses.
pub(crate) const PARAM: u64 = 3 << BITS;
/// Number of the first buffer.
const FIRST: u64 = 16;
/// Bytes that are locked as one.
pub(crate) const PAGE: usize = 4096;

/// A part of a buffer: its bytes, which of them were written, and by whom.
#[derive(Default)]
pub(crate) struct Page {
    pub data: Vec<u8>,
    /// Of each byte, whether it was written: bits of words.
    written: Vec<u64>,
    shadow: Shadow,
    launch: u64,
}

impl Page {
    fn ready(&mut self) {
        if self.data.is_empty() {
            self.data = vec![0xcd; PAGE];
            self.written = vec![0; PAGE / 64];
        }
    }
    /// Does something to the words that hold the marks of some bytes; stops when told to.
    fn words(
        &mut self,
        range: std::ops::Range<usize>,
        mut f: impl FnMut(usize, &mut u64, u64) -> Option<usize>,
    ) -> Option<usize> {
        let mut at = range.start;
        while at < range.end {
            let n = (64 - at % 64).min(range.end - at);
            let bits = (u64::MAX >> (64 - n)) << (at % 64);
            if let Some(found) = f(at / 64 * 64, &mut self.written[at / 64], bits) {
                return Some(found);
            }
            at += n;
        }
        None
    }
    /// Bytes were written, or are as if nobody had.
    pub fn mark(&mut self, range: std::ops::Range<usize>, written: bool) {
        self.words(range, |_, word, bits| {
            *word = if written { *word | bits } else { *word & !bits };
            None
        });
    }
    /// The first byte that nobody has written.
    pub fn hole(&mut self, range: std::ops::Range<usize>) -> Option<usize> {
        self.words(range, |at, word, bits| {
            let missing = !*word & bits;
            (missing != 0).then(|| at + missing.trailing_zeros() as usize)
        })
    }
    /// Who touched it in this launch.
    pub fn shadow(&mut self, launch: u64) -> &mut Shadow {
        if self.shadow.is_empty() {
            self.shadow = Shadow::new(PAGE);
        } else if self.launch != launch {
            self.shadow.clear();
        }
        self.launch = launch;
        &mut self.shadow
    }
}

pub(crate) struct Buffer {
    pub name: String,
    pub size: usize,
    pub read_only: bool,
    pages: Vec<Mutex<Page>>,
}

/// Global memory of a device.
#[derive(Default)]
pub struct Memory {
    buffers: Vec<Option<Buffer>>,
    used: usize,
}

/// An address that cannot be used, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct BadAddress {
    pub(crate) kind: Kind,
    /// In words.
    pub what: String,
}

impl Memory {
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }
    /// Memory that nobody has written yet.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> u64 {
        let mut pages = Vec::new();
        pages.resize_with(bytes.div_ceil(PAGE), Mutex::default);
        self.used += bytes;
        self.buffers.push(Some(Buffer { name: name.to_owned(), size: bytes, read_only: false, pages }));
        (FIRST + self.buffers.len() as u64 - 1) << BITS
    }
    /// Gives memory back. False if no memory begins there.
    pub fn free(&mut self, address: u64) -> bool {
        let place = (address >> BITS).checked_sub(FIRST).and_then(|i| self.buffers.get_mut(i as usize));
        match place {
            Some(b) if address & ((1 << BITS) - 1) == 0 => match b.take() {
                Some(b) => {
                    self.used -= b.size;
                    true
                }
                None => false,
            },
            _ => false,
        }
    }
    /// Memory that holds these bytes.
    pub fn upload(&mut self, name: &str, bytes: &[u8]) -> u64 {
        let address = self.alloc(name, bytes.len());
        // It is as large as what is written.
        let _ = self.write(address, bytes);
        address
    }
    /// Says whether kernels may write to a buffer.
    pub fn set_read_only(&mut self, address: u64, read_only: bool) {
        let place = (address >> BITS).checked_sub(FIRST).and_then(|i| self.buffers.get_mut(i as usize));
        if let Some(Some(b)) = place {
            b.read_only = read_only;
        }
    }
    /// Buffer and offset of an access.
    pub(crate) fn find(&self, address: u64, size: usize) -> Result<(&Buffer, usize), BadAddress> {
        let at = (address & ((1 << BITS) - 1)) as usize;
        let number = (address >> BITS).checked_sub(FIRST);
        let Some(place) = number.and_then(|i| self.buffers.get(i as usize)) else {
            let what = format!("{address:#x} is in no buffer");
            return Err(BadAddress { kind: Kind::OutOfBounds, what });
        };
        let Some(buffer) = place else {
            let what = format!("{address:#x} is in a buffer that was freed");
            return Err(BadAddress { kind: Kind::OutOfBounds, what });
        };
        if at + size > buffer.size {
            let before = 1u64 << (BITS - 1);
            let what = if at as u64 >= before {
                format!("{} bytes before {}", (1u64 << BITS) - at as u64, self.name_after(address))
            } else {
                format!("bytes {at} to {} of {}, which has {} bytes", at + size, buffer.name, buffer.size)
            };
            return Err(BadAddress { kind: Kind::OutOfBounds, what });
        }
        Ok((buffer, at))
    }
    fn name_after(&self, address: u64) -> &str {
        let next = ((address >> BITS) + 1).checked_sub(FIRST).and_then(|i| self.buffers.get(i as usize));
        next.and_then(Option::as_ref).map_or("nothing", |b| &b.name)
    }
    fn walk(
        &self,
        address: u64,
        size: usize,
        mut f: impl FnMut(&mut Page, std::ops::Range<usize>, usize),
    ) -> Result<(), BadAddress> {
        let (buffer, mut at) = self.find(address, size)?;
        let mut done = 0;
        while done < size {
            let from = at % PAGE;
            let n = (PAGE - from).min(size - done);
            f(&mut buffer.page(at), from..from + n, done);
            at += n;
            done += n;
        }
        Ok(())
    }
    /// Writes from outside.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.walk(address, bytes.len(), |page, range, done| {
            page.mark(range.clone(), true);
            page.data[range.clone()].copy_from_slice(&bytes[done..done + range.len()]);
        })
    }
    /// Fills from outside.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<(), BadAddress> {
        let mut i = 0;
        self.walk(address, pattern.len() * count, |page, range, _| {
            page.mark(range.clone(), true);
            for byte in &mut page.data[range] {
                *byte = pattern[i % pattern.len()];
                i += 1;
            }
        })
    }
    /// Reads from outside. What nobody wrote reads as 0xcd.
    pub fn read(&self, address: u64, size: usize) -> Result<Vec<u8>, BadAddress> {
        let mut bytes = Vec::new();
        self.walk(address, size, |page, range, _| bytes.extend_from_slice(&page.data[range]))?;
        Ok(bytes)
    }
    /// How many of some bytes nobody has written.
    pub fn unwritten(&self, address: u64, size: usize) -> Result<usize, BadAddress> {
        let mut n = 0;
        self.walk(address, size, |page, range, _| {
            page.words(range, |_, word, bits| {
                n += (!*word & bits).count_ones() as usize;
                None
            });
        })?;
        Ok(n)
    }
    /// Copies, what was not written included.
    pub fn copy(&self, to: u64, from: u64, size: usize) -> Result<(), BadAddress> {
        let (mut bytes, mut holes) = (Vec::with_capacity(size), Vec::new());
        self.walk(from, size, |page, mut range, done| {
            bytes.extend_from_slice(&page.data[range.clone()]);
            let first = range.start;
            while let Some(at) = page.hole(range.clone()) {
                holes.push(done + at - first);
                range.start = at + 1;
            }
        })?;
        self.walk(to, size, |page, range, done| {
            let n = range.len();
            page.data[range.clone()].copy_from_slice(&bytes[done..done + n]);
            page.mark(range.clone(), true);
            let here = holes.partition_point(|&h| h < done)..holes.partition_point(|&h| h < done + n);
            for at in holes[here].iter().map(|h| range.start + h - done) {
                page.mark(at..at + 1, false);
            }
        })
    }
    /// The buffer of an address, in words.
    pub(crate) fn describe(&self, address: u64) -> String {
        match self.find(address, 1) {
            Ok((b, at)) => format!("{}+{at}", b.name),
            Err(e) => e.what,
        }
    }
}

impl Buffer {
    /// Whether an access that begins in this buffer ends in it.
    pub fn holds(&self, address: u64, n: usize) -> bool {
        (address & ((1 << BITS) - 1)) as usize + n <= self.size
    }
    /// The page that a byte is in.
    pub fn page(&self, at: usize) -> MutexGuard<'_, Page> {
        let mut page = self.pages[at / PAGE].lock().unwrap_or_else(PoisonError::into_inner);
        page.ready();
        page
    }
}

/// The address of a variable, once the module is loaded.
pub(crate) fn variable(o: Operand, at: &[u64]) -> Option<u64> {
    match o {
        Operand::Var(v, offset) => at.get(v as usize).map(|a| a.wrapping_add_signed(offset)),
        _ => None,
    }
}
