//! `seawall verify` and `seawall expire`, with real servers: what is damaged is named, what is kept
//! restores, and nothing that is needed ever goes.

mod expire;
mod holds;
mod kills;
mod named;
mod repair;
mod verify;
mod windows;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::backup::seawall;
use super::common::Must;
use super::program::{Ended, ended};
use super::restore_wal::Kept;

pub(super) fn verify_command(kept: &Kept, more: &[&str]) -> Command {
    let mut command = seawall(kept, "verify");
    command.args(more);
    command
}

/// What `seawall verify --json` says, and ends with.
pub(super) fn verify(kept: &Kept, more: &[&str]) -> (Value, Ended) {
    let ended = ended(verify_command(kept, &["--json"]).args(more));
    let value = serde_json::from_str(&ended.stdout);
    let value = value.unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    (value, ended)
}

/// All is well.
#[track_caller]
pub(super) fn assert_sound(kept: &Kept, more: &[&str]) -> Value {
    let (value, ended) = verify(kept, more);
    assert_eq!(value["sound"], true, "{value:#}");
    assert_eq!(value["damages"], serde_json::json!([]), "{value:#}");
    ended.is_well();
    value
}

/// Flips a bit, where it is.
pub(super) fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).must();
    let (mut byte, at) = ([0], at as u64);
    file.read_exact_at(&mut byte, at).must();
    file.write_all_at(&[byte[0] ^ 0x10], at).must();
}
