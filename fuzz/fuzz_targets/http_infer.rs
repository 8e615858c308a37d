#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fugato::fuzz::http_infer(data));
