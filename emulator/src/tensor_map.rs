//! Tensor maps: what `cuTensorMapEncodeTiled` makes of its arguments. The hardware's layout is secret; here
//! they are plain.

const MAGIC: u64 = 0x7e39_4a70_6d61_7021;

/// A tensor in global memory, and the box of it that one copy moves.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMap {
    /// Where the tensor begins.
    pub base: u64,
    /// Bytes of an element: at most 8.
    pub element: usize,
    /// Elements along each axis, the fastest first.
    pub dims: Vec<u64>,
    /// Bytes between neighbours along each axis but the first.
    pub strides: Vec<u64>,
    /// Elements of a box along each axis.
    pub tile: Vec<u32>,
    /// Bytes over which rows are swizzled in shared memory: 0, 32, 64 or 128.
    pub swizzle: usize,
}

impl TensorMap {
    /// As a kernel gets it.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut words = [0u64; 16];
        words[0] = MAGIC;
        words[1] = self.base;
        words[2] = self.dims.len() as u64 | (self.element as u64) << 8 | (self.swizzle as u64) << 16;
        for (place, v) in words[3..8].iter_mut().zip(&self.dims) {
            *place = *v;
        }
        for (place, v) in words[8..12].iter_mut().zip(&self.strides) {
            *place = *v;
        }
        for (i, v) in self.tile.iter().take(5).enumerate() {
            words[12 + i / 2] |= u64::from(*v) << (32 * (i % 2));
        }
        let mut bytes = [0; 128];
        for (place, w) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&w.to_le_bytes());
        }
        bytes
    }
    /// Back from what a kernel got.
    pub fn from_bytes(bytes: &[u8]) -> Option<TensorMap> {
        let word = |i: usize| Some(u64::from_le_bytes(*bytes.get(8 * i..)?.first_chunk()?));
        let head = word(2)?;
        let (rank, element, swizzle) =
            ((head & 255) as usize, (head >> 8 & 255) as usize, (head >> 16 & 255) as usize);
        if word(0)? != MAGIC || !(1..=5).contains(&rank) || !matches!(element, 1 | 2 | 4 | 8) {
            return None;
        }
        Some(TensorMap {
            base: word(1)?,
            element,
            dims: (0..rank).map(|i| word(3 + i)).collect::<Option<_>>()?,
            strides: (0..rank - 1).map(|i| word(8 + i)).collect::<Option<_>>()?,
            tile: (0..rank)
                .map(|i| Some((word(12 + i / 2)? >> (32 * (i % 2))) as u32))
                .collect::<Option<_>>()?,
            swizzle,
        })
    }
    /// Why the hardware would refuse it, if it would (CUDA driver API, "cuTensorMapEncodeTiled").
    pub fn invalid(&self) -> Option<&'static str> {
        let rank = self.dims.len();
        let inner = self.tile.first().map_or(0, |&t| t as usize * self.element);
        if !(1..=5).contains(&rank) || self.strides.len() + 1 != rank || self.tile.len() != rank {
            Some("the numbers of dimensions, strides and box sides do not match")
        } else if !self.base.is_multiple_of(16) {
            Some("the tensor's address is not a multiple of 16")
        } else if self.strides.iter().any(|s| s % 16 != 0 || *s >= 1 << 40) {
            Some("a stride is not a multiple of 16")
        } else if self.dims.iter().any(|&d| d == 0 || d > 1 << 32)
            || self.tile.iter().any(|&t| t == 0 || t > 256)
        {
            Some("a dimension or a box side is zero or too large")
        } else if !inner.is_multiple_of(16) || (self.swizzle > 0 && inner > self.swizzle) {
            Some("the box's inner side does not match the swizzle, or is not a multiple of 16 bytes")
        } else {
            None
        }
    }
    pub(crate) fn box_bytes(&self) -> usize {
        self.tile.iter().fold(self.element, |n, &t| n.saturating_mul(t as usize))
    }
    /// What a box's place in shared memory has to be a multiple of.
    pub(crate) fn alignment(&self) -> u64 {
        128
    }
    /// The rows of a box: address of the first element, and which elements are inside the tensor.
    pub(crate) fn rows(&self, at: &[i64]) -> Vec<(u64, Vec<bool>)> {
        let count: usize = self.tile[1..].iter().map(|&t| t as usize).product();
        let inside = |axis: usize, x: i64| x >= 0 && (x as u64) < self.dims[axis];
        let row = |mut i: usize| {
            let mut address = self.base.wrapping_add_signed(at[0] * self.element as i64);
            let mut ok = true;
            for (axis, &start) in at.iter().enumerate().skip(1) {
                let x = start + (i % self.tile[axis] as usize) as i64;
                i /= self.tile[axis] as usize;
                ok &= inside(axis, x);
                address = address.wrapping_add_signed(x.wrapping_mul(self.strides[axis - 1] as i64));
            }
            let flags = (0..i64::from(self.tile[0])).map(|x| ok && inside(0, at[0] + x)).collect();
            (address, flags)
        };
        (0..count).map(row).collect()
    }
}
