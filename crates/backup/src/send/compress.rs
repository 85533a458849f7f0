//! Archives compressed as they go out. What levels there are is the encoder's: gzip's nine, one of
//! LZ4, and Zstandard's up to 4, which a greater one is taken for.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use lz4_flex::frame::{BlockSize, FrameEncoder as Lz4, FrameInfo};

use super::Compression;

/// The levels that zrip has.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -7..=4;
/// The server's default, `ZSTD_CLEVEL_DEFAULT`.
const ZSTD_DEFAULT: i32 = 3;

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

enum Encoder {
    Gzip(Box<flate2::write::GzEncoder<Written>>),
    Lz4(Box<Lz4<Written>>),
    Zstd(Box<zrip::FrameEncoder<Written>>),
}

/// Compresses one archive.
pub(super) struct Compressor {
    encoder: Encoder,
    written: Written,
}

impl Compressor {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        let written = Written::default();
        let to = written.clone();
        let encoder = match compression {
            Compression::Gzip(level) => {
                let level = level.map_or(flate2::Compression::default(), flate2::Compression::new);
                Encoder::Gzip(Box::new(flate2::write::GzEncoder::new(to, level)))
            }
            Compression::Lz4 => {
                let info = FrameInfo::new().block_size(BlockSize::Max256KB);
                Encoder::Lz4(Box::new(Lz4::with_frame_info(info, to)))
            }
            Compression::Zstd(level) => {
                let (least, greatest) = (*ZSTD_LEVELS.start(), *ZSTD_LEVELS.end());
                let level = level.unwrap_or(ZSTD_DEFAULT).clamp(least, greatest);
                let encoder = zrip::FrameEncoder::new(to, level).map_err(io::Error::other)?;
                Encoder::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { encoder, written })
    }

    /// Takes bytes, and gives what has come of them so far.
    pub(super) fn take(&mut self, bytes: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Gzip(encoder) => encoder.write_all(bytes)?,
            Encoder::Lz4(encoder) => encoder.write_all(bytes)?,
            Encoder::Zstd(encoder) => encoder.write_all(bytes)?,
        }
        self.written.take_into(buffer);
        Ok(())
    }

    /// The archive ends.
    pub(super) fn finish(self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self.encoder {
            Encoder::Gzip(encoder) => drop(encoder.finish()?),
            Encoder::Lz4(encoder) => drop(encoder.finish().map_err(io::Error::other)?),
            Encoder::Zstd(encoder) => drop(encoder.finish()?),
        }
        self.written.take_into(buffer);
        Ok(())
    }
}
