//! What only a terminal has.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::Failure;

/// Whether somebody watches standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Asks for a password on the terminal, without showing it.
pub(crate) fn ask_password() -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("can't ask for the password: {error}"));
    let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let before = tcgetattr(&tty).map_err(|error| failed(error.into()))?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tty.write_all(b"Password: ").map_err(failed)?;
    tcsetattr(&tty, OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
    let mut line = String::new();
    let read = BufReader::new(&tty).read_line(&mut line);
    tcsetattr(&tty, OptionalActions::Flush, &before).map_err(|error| failed(error.into()))?;
    tty.write_all(b"\n").map_err(failed)?;
    read.map_err(failed)?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(line)
}
