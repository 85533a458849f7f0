//! Tar files in pieces: what is accepted is below a directory, and says its bytes exactly.

#![no_main]

use backup::tar::{Entry, EntryKind, Reader, TarError, Visitor};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Sizes {
    left: u64,
}

impl Visitor for Sizes {
    type Error = TarError;

    fn entry(&mut self, entry: &Entry, _at: u64) -> Result<(), TarError> {
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        assert!(entry.path.as_path().components().all(plain));
        self.left = match entry.kind {
            EntryKind::File { size } => size,
            _ => 0,
        };
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.left = self.left.checked_sub(bytes.len() as u64).expect("no more than was said");
        Ok(())
    }

    fn entry_end(&mut self) -> Result<(), TarError> {
        assert_eq!(self.left, 0);
        Ok(())
    }
}

fuzz_target!(|input: (Vec<u8>, u16)| {
    let (bytes, piece) = input;
    let (mut reader, mut sizes) = (Reader::new(), Sizes::default());
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        if reader.feed(piece, &mut sizes).is_err() {
            return;
        }
    }
    let _ = reader.finish();
});
