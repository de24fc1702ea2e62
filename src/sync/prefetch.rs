//! A hint to fetch a cache line before it is written.
//!
//! 1. A prefetch is only a hint: whatever the address, it neither faults nor changes what a program can
//!    see. So it is safe to ask for any.
#![expect(unsafe_code, reason = "the hint of the processor takes a raw pointer")]

use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};

/// Fetches the line at this address, to be written soon.
///
/// Unless the build names a processor that can fetch a line for writing, the compiler makes it an ordinary
/// fetch.
#[inline(always)]
#[cfg_attr(not(test), expect(dead_code, reason = "its user comes next"))]
pub(crate) fn prefetch_write<T>(address: *const T) {
    // SAFETY: any address will do (rule 1).
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) };
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
