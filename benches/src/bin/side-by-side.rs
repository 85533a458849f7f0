//! `cargo xtask bench NAME`: seawall beside a real peer.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};

type Bench = fn(&[String]) -> Result<()>;

const BENCHES: [(&str, Bench); 11] = [
    ("catchup", benches::catchup::bench),
    ("sync", benches::sync::bench),
    ("memory", benches::memory::bench),
    ("backup", benches::backup::bench),
    ("compress", benches::compress::bench),
    ("dump", benches::dump::dump),
    ("stats", benches::dump::stats),
    ("restore-wal", benches::restore_wal::bench),
    ("verify", benches::verify::bench),
    ("scale", benches::scale::bench),
    ("serve", benches::serve::bench),
];

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let wanted = args.first().map_or("", String::as_str);
    let Some((_, bench)) = BENCHES.iter().find(|(name, _)| *name == wanted) else {
        let names = BENCHES.map(|(name, _)| name).join(", ");
        bail!("no bench {wanted:?}; there are {names}");
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "-q", "-p", "seawall", "-p", "pg_waldump"])
        .status();
    if !built.context("building the programs")?.success() {
        bail!("the programs don't build");
    }
    bench(args.get(1..).unwrap_or_default())
}
