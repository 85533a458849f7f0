//! The checksums that a manifest may have (`common/checksum_helper.c`, 13–18).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use wal_format::crc::Crc32c;

/// How files are summed up in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Not at all: only their sizes are known.
    None,
    /// CRC-32C, the server's default.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As the server writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Reads a name, in any case, as the server does.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// The bytes of a sum.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// A sum that is being computed.
pub(crate) enum Hasher {
    None,
    Crc32c(Crc32c),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::None => Self::None,
            Algorithm::Crc32c => Self::Crc32c(Crc32c::new()),
            Algorithm::Sha224 => Self::Sha224(Sha224::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32c(crc) => crc.update(bytes),
            Self::Sha224(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
            Self::Sha384(sha) => sha.update(bytes),
            Self::Sha512(sha) => sha.update(bytes),
        }
    }

    /// The sum's bytes. The server prints a CRC-32C's as they lie in memory: little-endian.
    pub(crate) fn finish(self) -> Box<[u8]> {
        match self {
            Self::None => Box::default(),
            Self::Crc32c(crc) => crc.value().to_le_bytes().into(),
            Self::Sha224(sha) => sha.finalize().as_slice().into(),
            Self::Sha256(sha) => sha.finalize().as_slice().into(),
            Self::Sha384(sha) => sha.finalize().as_slice().into(),
            Self::Sha512(sha) => sha.finalize().as_slice().into(),
        }
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string doesn't fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hex text.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_as_the_server_prints_them() {
        let check = |algorithm, expect: &str| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"12345");
            hasher.update(b"6789");
            let sum = hasher.finish();
            assert_eq!((hex(&sum).as_str(), sum.len()), (expect, algorithm.len()));
            assert_eq!(from_hex(expect).unwrap(), sum.to_vec());
            assert_eq!(Algorithm::parse(&algorithm.name().to_lowercase()), Some(algorithm));
        };
        check(Algorithm::None, "");
        // 0xE3069283, the check value of CRC-32C.
        check(Algorithm::Crc32c, "839206e3");
        check(Algorithm::Sha224, "9b3e61bf29f17c75572fae2e86e17809a4513d07c8a18152acf34521");
        check(
            Algorithm::Sha256,
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        );
        assert_eq!(from_hex("0g"), None);
        assert_eq!(from_hex("012"), None);
    }
}
