//! No C in what ships: the dependency trees of the programs under `bins/` name no crate that
//! compiles or links C.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{cargo, root};

/// Crates whose duty is to compile, find or bind C.
const TOOLS: [&str; 6] = ["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "nasm-rs"];

/// `-sys` crates without C: the kernel's own constants and numbers.
const ALLOWED: [&str; 1] = ["linux-raw-sys"];

/// Checks each program's normal and build dependencies for this target.
pub(crate) fn check() -> Result<()> {
    let bins = root().join("bins");
    for entry in fs::read_dir(&bins).context("reading bins/")?.flatten() {
        let manifest = entry.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let mut tree = cargo();
        tree.args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
        tree.arg("--manifest-path").arg(&manifest);
        let output = tree.output().context("starting cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let found = c_among(&names);
        let program = entry.file_name().to_string_lossy().into_owned();
        if !found.is_empty() {
            bail!(
                "{program} depends on {}, which bring C; `cargo tree -p {program} -e normal,build -i CRATE` \
                 shows why",
                found.join(", ")
            );
        }
        println!("{program}: {} crates, no C", names.len());
    }
    Ok(())
}

fn c_among<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let brings_c = |name: &str| TOOLS.contains(&name) || name.ends_with("-sys");
    let mut found: Vec<&str> =
        names.iter().copied().filter(|name| brings_c(name) && !ALLOWED.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::c_among;

    #[test]
    fn crates_that_bring_c_are_named() {
        let names = ["seawall", "linux-raw-sys", "zstd-sys", "cc", "crc32c", "zstd-sys", "libc"];
        assert_eq!(c_among(&names), ["cc", "zstd-sys"]);
    }
}
