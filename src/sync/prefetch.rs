//! A hint to fetch a cache line before it is written.
//!
//! 1. A prefetch is only a hint: whatever the address, it neither faults nor changes what a program can
//!    see. So it is safe to ask for any.
#![expect(unsafe_code, reason = "the hint of the processor takes a raw pointer")]

use std::arch::asm;

/// Fetches the line at this address, to be written soon.
///
/// The intrinsic for this becomes an ordinary fetch in a build for any processor; the instruction itself is one
/// that processors without it take for nothing.
#[inline(always)]
pub(crate) fn prefetch_write<T>(address: *const T) {
    // SAFETY: any address will do (rule 1); no memory, flag or stack is touched.
    unsafe {
        asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_may_be_asked_for() {
        let value = 7_u64;
        prefetch_write(&raw const value);
        prefetch_write(std::ptr::null::<u64>());
        prefetch_write(std::ptr::without_provenance::<u64>(usize::MAX));
        assert_eq!(value, 7);
    }
}
