#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pggit_proxy_fuzz::checks::text(data));
