//! Options as glibc's `getopt_long` takes them: abbreviated long ones, bundled short ones,
//! arguments joined or apart, operands anywhere unless `POSIXLY_CORRECT` is set, and its words for
//! what is wrong.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether an option has an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None.
    Nothing,
    /// One, joined or the next word.
    Argument,
    /// One behind `=`, or none.
    Optional,
}

/// A long option: its name, whether it has an argument, and what it stands for.
pub type Long = (&'static str, Takes, char);

/// A program's options.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Single letters.
    pub short: &'static [(u8, Takes)],
    /// Long names.
    pub long: &'static [Long],
}

/// Goes through arguments.
pub struct Getopt<'a> {
    table: &'a Table,
    program: &'a OsStr,
    args: std::slice::Iter<'a, OsString>,
    /// Short options that are left of a bundle.
    bundle: &'a [u8],
    in_order: bool,
    operands: Vec<&'a OsStr>,
}

/// An option that was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// What it stands for: a short option's letter.
    pub option: char,
    /// Its argument.
    pub argument: Option<OsString>,
}

impl<'a> Getopt<'a> {
    /// `program` is the program's name as it was called, which messages begin with; `in_order` is
    /// `POSIXLY_CORRECT`: operands end the options.
    #[must_use]
    pub fn new(table: &'a Table, program: &'a OsStr, args: &'a [OsString], in_order: bool) -> Self {
        let operands = Vec::new();
        Self { table, program, args: args.iter(), bundle: &[], in_order, operands }
    }

    /// The next option, or what is wrong with it as a line of text; `None` after the last.
    pub fn next_option(&mut self) -> Option<Result<Given, Vec<u8>>> {
        if let Some((letter, rest)) = self.bundle.split_first() {
            self.bundle = rest;
            return Some(self.short(*letter));
        }
        loop {
            let arg = self.args.next()?.as_os_str();
            match arg.as_bytes() {
                b"--" => {
                    self.operands.extend(self.args.by_ref().map(OsString::as_os_str));
                    return None;
                }
                [b'-', b'-', name @ ..] => return Some(self.long(name)),
                [b'-', letter, rest @ ..] => {
                    self.bundle = rest;
                    return Some(self.short(*letter));
                }
                _ => {
                    self.operands.push(arg);
                    if self.in_order {
                        self.operands.extend(self.args.by_ref().map(OsString::as_os_str));
                        return None;
                    }
                }
            }
        }
    }

    /// What isn't an option, in its order, once [`Self::next_option`] has given all of these.
    #[must_use]
    pub fn operands(self) -> Vec<OsString> {
        self.operands.into_iter().map(OsStr::to_os_string).collect()
    }

    fn short(&mut self, letter: u8) -> Result<Given, Vec<u8>> {
        let known = self.table.short.iter().find(|(known, _)| *known == letter);
        let Some((_, takes)) = known else {
            return Err(self.wrong(&[b"invalid option -- '", &[letter], b"'"]));
        };
        let option = char::from(letter);
        if *takes != Takes::Argument {
            return Ok(Given { option, argument: None });
        }
        let joined = std::mem::take(&mut self.bundle);
        let argument = if joined.is_empty() {
            self.args.next().cloned()
        } else {
            Some(OsString::from_vec(joined.to_vec()))
        };
        match argument {
            Some(argument) => Ok(Given { option, argument: Some(argument) }),
            None => Err(self.wrong(&[b"option requires an argument -- '", &[letter], b"'"])),
        }
    }

    fn long(&mut self, given: &[u8]) -> Result<Given, Vec<u8>> {
        let equals = given.iter().position(|byte| *byte == b'=');
        let (name, argument) = match equals {
            None => (given, None),
            Some(at) => {
                (given.get(..at).unwrap_or_default(), Some(given.get(at + 1..).unwrap_or_default()))
            }
        };
        let (name, takes, option) = self.look_up(name, given)?;
        let argument = argument.map(|argument| OsString::from_vec(argument.to_vec()));
        match (takes, argument) {
            (Takes::Nothing, Some(_)) => {
                Err(self.wrong(&[b"option '--", name.as_bytes(), b"' doesn't allow an argument"]))
            }
            (Takes::Argument, None) => match self.args.next() {
                Some(next) => Ok(Given { option, argument: Some(next.clone()) }),
                None => {
                    Err(self.wrong(&[b"option '--", name.as_bytes(), b"' requires an argument"]))
                }
            },
            (_, argument) => Ok(Given { option, argument }),
        }
    }

    /// The option of this name, or the one that it is the beginning of.
    fn look_up(&self, name: &[u8], given: &[u8]) -> Result<Long, Vec<u8>> {
        let exact = self.table.long.iter().find(|(long, ..)| long.as_bytes() == name);
        if let Some(long) = exact {
            return Ok(*long);
        }
        let begins = |(long, ..): &&Long| long.as_bytes().starts_with(name);
        let candidates: Vec<&Long> = self.table.long.iter().filter(begins).collect();
        match candidates.as_slice() {
            [] => Err(self.wrong(&[b"unrecognized option '--", given, b"'"])),
            [only] => Ok(**only),
            several => {
                let mut words = vec![&b"option '--"[..], given, b"' is ambiguous; possibilities:"];
                for (long, ..) in several {
                    words.extend([&b" '--"[..], long.as_bytes(), b"'"]);
                }
                Err(self.wrong(&words))
            }
        }
    }

    fn wrong(&self, words: &[&[u8]]) -> Vec<u8> {
        let mut text = self.program.as_bytes().to_vec();
        text.extend_from_slice(b": ");
        text.extend(words.concat());
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        short: &[(b'b', Takes::Nothing), (b'n', Takes::Argument), (b'z', Takes::Nothing)],
        long: &[
            ("block", Takes::Argument, 'B'),
            ("bkp-details", Takes::Nothing, 'b'),
            ("limit", Takes::Argument, 'n'),
            ("stats", Takes::Optional, 'z'),
            ("start", Takes::Argument, 's'),
        ],
    };

    fn check_in(in_order: bool, args: &[&str], expect: &str) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut getopt = Getopt::new(&TABLE, OsStr::new("prog"), &args, in_order);
        let mut text = String::new();
        while let Some(option) = getopt.next_option() {
            text += &match option {
                Ok(Given { option, argument: None }) => format!("{option} "),
                Ok(Given { option, argument: Some(argument) }) => {
                    format!("{option}={} ", argument.to_string_lossy())
                }
                Err(wrong) => String::from_utf8(wrong).unwrap().trim_end().to_owned() + " ",
            };
        }
        text += &format!("{:?}", getopt.operands());
        assert_eq!(text, expect);
    }

    fn check(args: &[&str], expect: &str) {
        check_in(false, args, expect);
    }

    #[test]
    fn short_ones_are_bundled() {
        check(&["-bzn5", "-n", "6", "-b"], "b z n=5 n=6 b []");
        check(&["-n"], "prog: option requires an argument -- 'n' []");
        check(
            &["-z=record"],
            "z prog: invalid option -- '=' prog: invalid option -- 'r' \
               prog: invalid option -- 'e' prog: invalid option -- 'c' prog: invalid option -- 'o' \
               prog: invalid option -- 'r' prog: invalid option -- 'd' []",
        );
    }

    #[test]
    fn long_ones_are_abbreviated() {
        check(&["--lim=3", "--bk", "--stat", "--stats=record"], "n=3 b z z=record []");
        check(
            &["--sta"],
            "prog: option '--sta' is ambiguous; possibilities: '--stats' '--start' []",
        );
        check(&["--no=1"], "prog: unrecognized option '--no=1' []");
        check(&["--bkp=1"], "prog: option '--bkp-details' doesn't allow an argument []");
        check(&["--lim"], "prog: option '--limit' requires an argument []");
    }

    #[test]
    fn operands_are_anywhere() {
        check(&["x", "-b", "-", "--", "-z"], r#"b ["x", "-", "-z"]"#);
        check_in(true, &["-b", "x", "-z"], r#"b ["x", "-z"]"#);
    }
}
