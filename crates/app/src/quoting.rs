//! A `restore_command` as a line of postgresql.conf: quoted for the shell that runs it, for the
//! server that replaces `%f` and `%p` in it, and for the file that it stands in.

use std::env;
use std::path::Path;

/// The line that restores from this archive, the last segment's whole records included.
pub(crate) fn restore_command(archive: &Path) -> String {
    let program = env::current_exe().unwrap_or_else(|_| "seawall".into());
    let words = [program.display().to_string(), archive.display().to_string()];
    let [program, archive] = words.map(|word| for_server(&for_shell(&word)));
    let command = format!("{program} restore-wal %f %p -A {archive} --partial");
    format!("restore_command = {}", for_file(&command))
}

/// A word of a shell's command line (`sh`, POSIX).
fn for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `%` is the server's own (`replace_percent_placeholders`, `common/percentrepl.c`).
fn for_server(text: &str) -> String {
    text.replace('%', "%%")
}

/// A string of postgresql.conf (`DeescapeQuotedString`, `utils/misc/guc-file.l`).
fn for_file(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''").replace('\n', r"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_takes_off_its_own_quotes() {
        let check = |word: &str, expect: &str| {
            assert_eq!(for_file(&for_server(&for_shell(word))), expect, "{word}");
        };
        check("/srv/wal/main", "'/srv/wal/main'");
        check("/srv/my wal", "'''/srv/my wal'''");
        check("100%", "'''100%%'''");
        check("it's", r"'''it''\\''''s'''");
        check(r"a\b", r"'''a\\b'''");
        check("a\nb", r"'''a\nb'''");
        check("$(id)", "'''$(id)'''");
        check("", "''''''");
    }
}
