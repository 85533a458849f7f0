//! The three compressions that the command line tools gzip, lz4 and zstd read and write: one name,
//! one encoder and one decoder each.
//!
//! Both work on streams. What a decoder may take is bounded by its caller, who knows how long the
//! content can be: gzip has 32 KiB of history, LZ4 blocks of at most 4 MiB, Zstandard its window,
//! and no decoder of it keeps more than the content itself. Several frames (members, in gzip's
//! words) behind each other are one content, as those tools have it.
//!
//! Never here: files, paths, threads.

mod frames;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

pub use frames::{Frame, MAX_CONTENT_LEN, PEEK_LEN, Peek, Unpacker};

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Zstandard frames (RFC 8878).
    Zstd,
    /// LZ4 frames.
    Lz4,
    /// gzip members (RFC 1952).
    Gzip,
}

/// WAL packs to about a ninth at this level, as fast as disks take it; level 3 gains a twentieth of
/// that for half the speed.
const ZSTD_LEVEL: i32 = 1;
/// What zrip has.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -7..=4;
/// gzip's quickest level, and its best.
const GZIP_FAST: i32 = 1;
const GZIP_BEST: i32 = 9;

impl Method {
    /// All of them, the one to look for first at the front.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Lz4, Self::Gzip];

    /// What a compressed file's name ends in, as the tools name it.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Lz4 => ".lz4",
            Self::Gzip => ".gz",
        }
    }

    /// A file's name without the ending, and what that says.
    #[must_use]
    pub fn of_name(name: &str) -> (&str, Option<Self>) {
        for method in Self::ALL {
            if let Some(plain) = name.strip_suffix(method.suffix()) {
                return (plain, Some(method));
            }
        }
        (name, None)
    }

    /// Reads the content of what was compressed. It ends with an error where the checksum in it
    /// doesn't hold, where it was cut off, and past `most` bytes.
    pub fn decoder<'a>(
        self,
        packed: impl BufRead + Send + 'a,
        most: u64,
    ) -> Box<dyn Read + Send + 'a> {
        match self {
            Self::Gzip => Box::new(Bounded { inner: MultiGzDecoder::new(packed), left: most }),
            Self::Lz4 => Box::new(Bounded { inner: Frames(FrameDecoder::new(packed)), left: most }),
            Self::Zstd => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                Box::new(zrip::FrameDecoder::with_limit(packed, most))
            }
        }
    }

    /// Writes what is compressed to `packed`.
    ///
    /// # Errors
    /// If the encoder can't begin.
    pub fn encoder<W: Write>(self, packed: W) -> io::Result<Encoder<W>> {
        let level = if self == Self::Gzip { GZIP_FAST } else { ZSTD_LEVEL };
        self.encoder_at(level, packed)
    }

    /// The same at a level of the method's own scale, or the nearest that there is: gzip's are all
    /// there, LZ4 has one, and Zstandard's go up to 4.
    ///
    /// # Errors
    /// If the encoder can't begin.
    pub fn encoder_at<W: Write>(self, level: i32, packed: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::Gzip => {
                let level = u32::try_from(level.clamp(GZIP_FAST, GZIP_BEST)).unwrap_or_default();
                Encoder::Gzip(Box::new(GzEncoder::new(packed, flate2::Compression::new(level))))
            }
            Self::Lz4 => {
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Linked)
                    .content_checksum(true);
                Encoder::Lz4(Box::new(FrameEncoder::with_frame_info(info, packed)))
            }
            Self::Zstd => {
                let level = level.clamp(*ZSTD_LEVELS.start(), *ZSTD_LEVELS.end());
                let encoder = zrip::FrameEncoder::new(packed, level);
                Encoder::Zstd(Box::new(encoder.map_err(io::Error::other)?))
            }
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
        })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|method| method.to_string() == text);
        named.ok_or_else(|| format!("\"{text}\" is none of zstd, lz4 and gzip"))
    }
}

/// Compresses what is written to it. Without [`finish`](Self::finish) the end is missing.
pub enum Encoder<W: Write> {
    /// gzip.
    Gzip(Box<GzEncoder<W>>),
    /// LZ4.
    Lz4(Box<FrameEncoder<W>>),
    /// Zstandard.
    Zstd(Box<zrip::FrameEncoder<W>>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is left, the content's checksum behind it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Lz4(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Lz4(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// The decoder of LZ4 says at the end of a frame what it says at the end of all.
struct Frames<R: Read>(FrameDecoder<R>);

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => self.0.read(buf),
            got => Ok(got),
        }
    }
}

/// Content that may have so many bytes and no more.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it unpacks to more than it may")
        })?;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Vec<u8> {
        (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    fn pack(method: Method, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = method.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(method: Method, packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        method.decoder(packed, most).read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn what_was_packed_comes_out_also_of_several_frames() {
        let bytes = content();
        for method in Method::ALL {
            let packed = pack(method, &bytes);
            assert!(packed.len() < bytes.len() / 3, "{method}: {}", packed.len());
            assert_eq!(unpack(method, &packed, bytes.len() as u64).unwrap(), bytes, "{method}");
            let twice = [packed.clone(), packed].concat();
            let both = unpack(method, &twice, u64::from(u32::MAX)).unwrap();
            assert_eq!(both.len(), 2 * bytes.len(), "{method}");
        }
    }

    #[test]
    fn what_was_cut_off_or_is_too_long_is_an_error() {
        let bytes = content();
        for method in Method::ALL {
            let packed = pack(method, &bytes);
            assert!(unpack(method, &packed, bytes.len() as u64 - 1).is_err(), "{method}");
            for len in [packed.len() - 1, packed.len() / 2, 3] {
                let most = bytes.len() as u64;
                assert!(unpack(method, &packed[..len], most).is_err(), "{method} {len}");
            }
            assert!(unpack(method, &[0xA5; 5000], 1 << 20).is_err(), "{method}");
        }
    }

    #[test]
    fn any_bit_that_flips_is_found_or_changes_nothing() {
        let bytes: Vec<u8> = (0..2000_u32).flat_map(|i| (i / 5).to_le_bytes()).collect();
        for method in Method::ALL {
            let packed = pack(method, &bytes);
            for at in 0..packed.len() {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x10;
                if let Ok(unpacked) = unpack(method, &damaged, 1 << 20) {
                    assert!(unpacked == bytes || unpacked.is_empty(), "{method}, byte {at}");
                }
            }
        }
    }

    #[test]
    fn names_say_the_method() {
        assert_eq!(Method::of_name("X.zst"), ("X", Some(Method::Zstd)));
        assert_eq!(Method::of_name("X.gz.partial"), ("X.gz.partial", None));
        assert_eq!("lz4".parse(), Ok(Method::Lz4));
        assert!("bzip2".parse::<Method>().is_err());
    }
}
