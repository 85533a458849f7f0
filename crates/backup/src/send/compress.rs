//! Archives compressed as they go out.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use compression::Encoder;

use super::Compression;

/// What an encoder has written.
#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn take_into(&self, buffer: &mut Vec<u8>) {
        buffer.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses one archive.
pub(super) struct Compressor {
    encoder: Encoder<Written>,
    written: Written,
}

impl Compressor {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        let written = Written::default();
        let encoder = compression.method.encoder_at(compression.level, written.clone())?;
        Ok(Self { encoder, written })
    }

    /// Takes bytes, and gives what has come of them so far.
    pub(super) fn take(&mut self, bytes: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
        self.encoder.write_all(bytes)?;
        self.written.take_into(buffer);
        Ok(())
    }

    /// The archive ends.
    pub(super) fn finish(self, buffer: &mut Vec<u8>) -> io::Result<()> {
        drop(self.encoder.finish()?);
        self.written.take_into(buffer);
        Ok(())
    }
}
