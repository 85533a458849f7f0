//! Manifests: what is accepted can be written and is the same again.

#![no_main]

use backup::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let _ = Manifest::parse(text);
    // Past the checksum, which no fuzzer guesses.
    if let Ok(text) = std::str::from_utf8(text)
        && let Ok(manifest) = Manifest::parse(Manifest::seal(text.to_owned() + "\n").as_bytes())
    {
        let manifest = Manifest { system_identifier: None, ..manifest };
        assert_eq!(Manifest::parse(manifest.write().as_bytes()), Ok(manifest));
    }
});
