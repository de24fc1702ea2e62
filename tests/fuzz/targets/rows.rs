//! Fuzzes `phalanx_fuzz::rows`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| phalanx_fuzz::rows(input));
