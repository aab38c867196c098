#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| everlink_fuzz::run("answer", input));
