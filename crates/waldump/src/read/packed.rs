//! Compressed segments, read as if they weren't: what is asked for is nearly always what follows.
//!
//! Bounded: nothing of a segment is kept but what its method needs (gzip 32 KiB, LZ4 4 MiB blocks,
//! Zstandard windows up to 8 MiB), and no more than the largest segment is ever unpacked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use compression::Method;
use pg_types::SegmentSize;

/// How much is unpacked at a time to be thrown away, on the way to a later offset.
const SKIP_BYTES: usize = 64 << 10;

/// An open compressed segment.
pub struct Packed {
    file: File,
    method: Method,
    unpacking: Box<dyn Read + Send>,
    /// The offset in the segment that is unpacked next.
    next: u64,
}

impl Packed {
    pub(super) fn new(file: File, method: Method) -> io::Result<Self> {
        let unpacking = unpack(file.try_clone()?, method);
        Ok(Self { file, method, unpacking, next: 0 })
    }

    /// As [`super::files::Segment::read_at`]. Going back begins anew.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < self.next {
            self.file.seek(SeekFrom::Start(0))?;
            self.unpacking = unpack(self.file.try_clone()?, self.method);
            self.next = 0;
        }
        let mut scratch = [0; SKIP_BYTES];
        while self.next < offset {
            let most = usize::try_from(offset - self.next).unwrap_or(SKIP_BYTES).min(SKIP_BYTES);
            let skipped = self.fill(scratch.get_mut(..most).unwrap_or_default())?;
            if skipped < most {
                return Ok(0);
            }
        }
        self.fill(buffer)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.unpacking.read(rest) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // One that is still being written, or that was cut off: what is there is there.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        self.next = self.next.saturating_add(got as u64);
        Ok(got)
    }
}

fn unpack(file: File, method: Method) -> Box<dyn Read + Send> {
    method.decoder(BufReader::new(file), SegmentSize::MAX.bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(method: Method, bytes: &[u8]) -> Packed {
        let mut file = tempfile::tempfile().unwrap();
        let mut encoder = method.encoder(&mut file).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        Packed::new(file, method).unwrap()
    }

    #[test]
    fn any_offset_can_be_read_in_any_order() {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for method in Method::ALL {
            let mut packed = packed(method, &bytes);
            for (offset, len) in [(0, 40), (8192, 8192), (500_000, 9), (8192, 100), (1_199_990, 50)]
            {
                let mut buffer = vec![0; len];
                let got = packed.read_at(&mut buffer, offset as u64).unwrap();
                assert_eq!(buffer[..got], bytes[offset..(offset + len).min(bytes.len())]);
            }
            assert_eq!(packed.read_at(&mut [0; 4], 2_000_000).unwrap(), 0);
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_no_panic() {
        for method in Method::ALL {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[0xA5; 5000]).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            assert!(Packed::new(file, method).unwrap().read_at(&mut [0; 100], 0).is_err());
        }
    }
}
