//! Fuzzes `phalanx_fuzz::store`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| phalanx_fuzz::store(input));
