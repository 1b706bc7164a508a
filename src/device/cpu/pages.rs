//! Advice to the operating system about memory.
#![allow(unsafe_code, reason = "one call of the C library, on whole pages of memory that exists")]

/// A huge page.
pub const HUGE: usize = 2 << 20;

/// Asks for huge pages behind memory that will be written whole: they save most page faults and address
/// look-ups. A wish: where it is not granted, nothing changes.
pub fn prefer_huge(start: *const u8, len: usize) {
    #[cfg(target_os = "linux")]
    {
        let before = start.align_offset(HUGE);
        if let Some(whole) = len.checked_sub(before).map(|n| n / HUGE * HUGE).filter(|&n| n > 0) {
            let first = start.wrapping_add(before).cast_mut().cast();
            // SAFETY: the advice changes neither what the pages hold nor who may use them, and an address
            // that is not mapped is only answered with an error.
            unsafe { libc::madvise(first, whole, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}
