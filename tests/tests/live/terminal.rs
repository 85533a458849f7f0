//! What somebody sees who starts a receiver by hand, on a real terminal (that of `script`).

use std::process::Command;

use testkit::process::{run_unchecked, seawall_bin};

use super::common::{LIMIT, Must, scratch, server, server_flush};

#[test]
fn a_line_lives_on_a_terminal_and_nowhere_else() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    primary.init_pgbench(1).must();
    let archive = scratch.path().join("archive");
    let program = seawall_bin().must();
    let start = format!(
        "{} receive --no-slot -A {} -d '{}' -E {}",
        program.display(),
        archive.display(),
        primary.conninfo(),
        server_flush(&primary)
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &start, "/dev/null"]).env_remove("SEAWALL_ARCHIVE");
    let watched = run_unchecked(&mut script, "", LIMIT, "seawall on a terminal").must();
    let text = String::from_utf8_lossy(&watched.stdout);
    assert!(watched.status.success(), "{text}");
    let line = text.split("\r\u{1b}[K").find(|piece| piece.contains("/s  lag "));
    let line = line.unwrap_or_else(|| panic!("no living line in {text:?}"));
    assert!(line.starts_with("0/"), "{line:?}");

    let mut plain = Command::new("sh");
    plain.args(["-c", &start]).env_remove("SEAWALL_ARCHIVE");
    let plain = run_unchecked(&mut plain, "", LIMIT, "seawall without a terminal").must();
    assert!(plain.status.success());
    assert!(!plain.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&plain.stderr));
}
