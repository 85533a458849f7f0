//! How a backup is to be compressed on the server, from 15 on: an algorithm, and a detail, which is
//! a level or a list of options (`parse_compress_specification`, `common/compression.c`, 15–18).

use super::super::startup::parse_bool;

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// gzip
    Gzip,
    /// LZ4 frames
    Lz4,
    /// Zstandard
    Zstd,
    /// `none`, which may be asked for, too.
    None,
}

/// An algorithm and how hard it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Which; never [`Method::None`].
    pub method: Method,
    /// Its own scale; `None` for its default.
    pub level: Option<i32>,
}

/// The first major version that knows `long`.
const LONG_SINCE_MAJOR: u32 = 16;

impl Method {
    /// Reads a name, which is written in lower case.
    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|method| method.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// What an archive's name gets behind it.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Lz4 => ".lz4",
            Self::Zstd => ".zst",
        }
    }

    /// The least, the greatest and the default level.
    fn levels(self) -> Option<(i32, i32, i32)> {
        match self {
            Self::None => None,
            Self::Gzip => Some((1, 9, -1)),
            Self::Lz4 => Some((1, 12, 0)),
            Self::Zstd => Some((-131_072, 22, 3)),
        }
    }
}

/// Reads a detail; `None` if nothing is to be compressed. How many threads and how large a window
/// may be said, and is the encoder's affair.
pub(super) fn specification(
    method: Method,
    detail: Option<&str>,
    major: u32,
) -> Result<Option<Compression>, String> {
    let mut said = Said::default();
    if let Some(detail) = detail {
        match detail.trim_ascii_start().parse() {
            Ok(level) => said.level = Some(level),
            Err(_) => said.read(detail, major)?,
        }
    }
    let name = method.name();
    let Some((least, greatest, default)) = method.levels() else {
        return match said.level.filter(|level| *level != 0) {
            Some(_) => {
                Err(format!("compression algorithm \"{name}\" does not accept a compression level"))
            }
            None => Ok(None),
        };
    };
    let level = said.level.filter(|level| *level != default);
    if level.is_some_and(|level| !(least..=greatest).contains(&level)) {
        return Err(format!(
            "compression algorithm \"{name}\" expects a compression level between {least} and \
             {greatest} (default at {default})"
        ));
    }
    if said.workers && method != Method::Zstd {
        return Err(format!("compression algorithm \"{name}\" does not accept a worker count"));
    }
    if said.long && method != Method::Zstd {
        return Err(format!(
            "compression algorithm \"{name}\" does not support long-distance mode"
        ));
    }
    Ok(Some(Compression { method, level }))
}

#[derive(Default)]
struct Said {
    level: Option<i32>,
    workers: bool,
    long: bool,
}

impl Said {
    /// `option[=value][,…]`
    fn read(&mut self, detail: &str, major: u32) -> Result<(), String> {
        for option in detail.split(',') {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match name {
                "" => {
                    let text = "found empty string where a compression option was expected";
                    return Err(text.to_owned());
                }
                "level" => self.level = Some(integer(name, value)?),
                "workers" => {
                    integer(name, value)?;
                    self.workers = true;
                }
                "long" if major >= LONG_SINCE_MAJOR => {
                    let wanted = value.map_or(Some(true), parse_bool);
                    let wrong = || {
                        format!("value for compression option \"{name}\" must be a Boolean value")
                    };
                    wanted.ok_or_else(wrong)?;
                    self.long = true;
                }
                _ => return Err(format!("unrecognized compression option: \"{name}\"")),
            }
        }
        Ok(())
    }
}

fn integer(name: &str, value: Option<&str>) -> Result<i32, String> {
    let value = value.ok_or_else(|| format!("compression option \"{name}\" requires a value"))?;
    let number = value.trim_ascii_start().parse();
    number.map_err(|_| format!("value for compression option \"{name}\" must be an integer"))
}
