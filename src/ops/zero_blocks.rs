//! Which blocks of the gradients are zero, so that nobody has to read them.

use super::Input;
use crate::device::Tensor;
use crate::error::Result;

/// The zero-block bitmap of an arena of gradients: one bit for each block of [`ZeroBlocks::BLOCK`] elements,
/// u32 (words).
///
/// A set bit guarantees that all elements of the block are zero in memory, so that readers may skip the
/// block. A clear bit says nothing. In the gradient of a token embedding only the rows of the batch are not
/// zero, so most blocks are never read.
#[derive(Clone, Debug)]
pub struct ZeroBlocks {
    /// The bits of the whole arena.
    pub bits: Tensor,
    /// The offset of this gradient in the arena in elements, a multiple of [`ZeroBlocks::GRAIN`].
    pub first: usize,
}

impl ZeroBlocks {
    /// Elements per bit.
    pub const BLOCK: usize = 512;
    /// Elements per word.
    pub const WORD: usize = 32 * ZeroBlocks::BLOCK;
    /// The alignment of gradients, in elements.
    pub const GRAIN: usize = 64;

    /// The number of words for an arena with this number of elements.
    pub fn words(elements: usize) -> usize {
        elements.div_ceil(ZeroBlocks::WORD)
    }
    /// For cases: a gradient of `n` elements that is zero except at the indices `at`, and its bitmap.
    pub(super) fn case(n: usize, at: &[usize]) -> (Input, Input) {
        let grad: Vec<f64> = (0..n).map(|i| if at.contains(&i) { 0.5 } else { 0.0 }).collect();
        let full = |block: usize| at.iter().any(|i| i / ZeroBlocks::BLOCK == block);
        let bit = |word: usize, b: usize| (!full(32 * word + b) as u32) << b;
        let bits: Vec<u32> = (0..ZeroBlocks::words(n)).map(|w| (0..32).map(|b| bit(w, b)).sum()).collect();
        (Input::fixed(&[n], &grad), Input::ints(&bits))
    }
    /// Whether the bitmap says that all of `count` elements from `at` on, at most a block, are zero.
    pub(super) fn covers(bits: Option<&[u32]>, at: usize, count: usize) -> bool {
        let bit = |e: usize| {
            let block = e / ZeroBlocks::BLOCK;
            bits.and_then(|bits| bits.get(block / 32)).is_some_and(|word| word >> (block % 32) & 1 == 1)
        };
        bit(at) && bit(at + count.saturating_sub(1))
    }
    /// The words for a gradient of this number of elements. Zeroing them marks it, and its neighbours in the
    /// same words, as dense, which is always correct.
    pub(crate) fn part(&self, elements: usize) -> Result<Tensor> {
        let (from, to) = (self.first / ZeroBlocks::WORD, ZeroBlocks::words(self.first + elements));
        self.bits.view(from, &[to - from])
    }
}
