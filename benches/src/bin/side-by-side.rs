//! `cargo xtask bench NAME`: seawall beside a real peer.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "-q", "-p", "seawall"]).status();
    if !built.context("building seawall")?.success() {
        bail!("seawall doesn't build");
    }
    match args.split_first() {
        Some((name, rest)) => match name.as_str() {
            "catchup" => benches::catchup::bench(rest),
            "sync" => benches::sync::bench(rest),
            "memory" => benches::memory::bench(rest),
            "restore-wal" => benches::restore_wal::bench(rest),
            other => bail!("no bench {other:?}: catchup, sync, memory or restore-wal"),
        },
        None => bail!("which bench: catchup, sync, memory or restore-wal"),
    }
}
