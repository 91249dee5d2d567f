//! One kind of input, the one that this target is called by: see `src/untrusted.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| leakcheck::untrusted::read(env!("CARGO_BIN_NAME"), octets));
