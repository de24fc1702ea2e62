//! Hints to fetch a cache line before it is read or written.
//!
//! 1. A prefetch is only a hint: whatever the address, it neither faults nor changes what a program can
//!    see. So it is safe to ask for any.
#![expect(unsafe_code, reason = "the hints of the processor take a raw pointer")]

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Fetches the line at this address, to be written soon.
///
/// The intrinsic for this becomes an ordinary fetch in a build for any processor, so the instruction is written
/// out. Every x86-64 processor since 2006 knows it or takes it for nothing (64-bit Windows has required that since
/// version 8.1); the very first ones of Intel refuse it.
#[inline(always)]
pub(crate) fn prefetch_write<T>(address: *const T) {
    // SAFETY: any address will do (rule 1); no memory, flag or stack is touched.
    unsafe {
        asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Fetches the line at this address, to be read soon.
#[inline(always)]
pub(crate) fn prefetch_read<T>(address: *const T) {
    // SAFETY: any address will do (rule 1).
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_may_be_asked_for() {
        let value = 7_u64;
        for hint in [prefetch_read::<u64>, prefetch_write::<u64>] {
            hint(&raw const value);
            hint(std::ptr::null());
            hint(std::ptr::without_provenance(usize::MAX));
        }
        assert_eq!(value, 7);
    }
}
