//! The configuration of a recovery, in each version's own form: `recovery.conf` up to 11; a signal
//! file and lines of `postgresql.auto.conf` from 12 on (`access/transam/xlogrecovery.c`).

use pg_types::TimelineId;

use crate::Target;

/// The first major version without `recovery.conf`, which it refuses to start with.
const SIGNAL_FILES_SINCE_MAJOR: u32 = 12;

/// Settings that belong to one recovery: what the backed-up server had of them isn't meant for the
/// restored one, and two targets at once are fatal.
const BELONG_TO_A_RECOVERY: &[&str] = &[
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "primary_conninfo",
    "primary_slot_name",
];

/// Files that tell a server to recover: the backed-up server's own aren't restored.
pub(crate) const SIGNALS: &[&str] = &["recovery.conf", "recovery.signal", "standby.signal"];

/// The file that settings are appended to.
pub(crate) const AUTO_CONF: &str = "postgresql.auto.conf";

/// What a standby streams from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standby {
    /// Its primary.
    pub conninfo: Option<String>,
    /// The slot there.
    pub slot: Option<String>,
}

/// How a restored server recovers.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The server's major version.
    pub server_major: u32,
    /// What brings WAL, for a shell: quoted for it already, with `%f` and `%p`.
    pub restore_command: String,
    /// A standby, or a recovery that ends.
    pub standby: Option<Standby>,
    /// Where it ends, and how a time is written.
    pub target: Target,
    /// The text of a target time.
    pub time: String,
    /// Whether the target itself is recovered.
    pub inclusive: bool,
    /// What is done at the target: `pause`, `promote`, `shutdown`; the server's default if not said.
    pub action: Option<&'static str>,
    /// The timeline; the newest if not said.
    pub timeline: Option<TimelineId>,
}

impl Recovery {
    /// The files to write: their names below the data directory, and their contents. `auto_conf` is
    /// what the backup has of `postgresql.auto.conf`.
    #[must_use]
    pub fn files(&self, auto_conf: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        if self.server_major < SIGNAL_FILES_SINCE_MAJOR {
            let mut lines = self.lines();
            if self.standby.is_some() {
                lines.insert_str(0, "standby_mode = 'on'\n");
            }
            return vec![("recovery.conf", lines.into_bytes()), (AUTO_CONF, auto_conf.to_vec())];
        }
        let mut settings = without_recovery(auto_conf);
        settings.extend_from_slice(b"# Written by seawall restore.\n");
        settings.extend_from_slice(self.lines().as_bytes());
        let signal = if self.standby.is_some() { "standby.signal" } else { "recovery.signal" };
        vec![(AUTO_CONF, settings), (signal, Vec::new())]
    }

    fn lines(&self) -> String {
        let mut lines = String::new();
        let mut set = |name: &str, value: &str| {
            lines += &format!("{name} = {}\n", quote_conf(value));
        };
        set("restore_command", &self.restore_command);
        match self.timeline {
            Some(timeline) => set("recovery_target_timeline", &timeline.to_string()),
            None => set("recovery_target_timeline", "latest"),
        }
        match &self.target {
            Target::End => {}
            Target::Immediate => set("recovery_target", "immediate"),
            Target::Time(_) => set("recovery_target_time", &self.time),
            Target::Lsn(lsn) => set("recovery_target_lsn", &lsn.to_string()),
            Target::Xid(xid) => set("recovery_target_xid", &xid.to_string()),
            Target::Name(name) => set("recovery_target_name", name),
        }
        if !self.inclusive {
            set("recovery_target_inclusive", "off");
        }
        if let Some(action) = self.action {
            set("recovery_target_action", action);
        }
        if let Some(standby) = &self.standby {
            if let Some(conninfo) = &standby.conninfo {
                set("primary_conninfo", conninfo);
            }
            if let Some(slot) = &standby.slot {
                set("primary_slot_name", slot);
            }
        }
        lines
    }
}

/// A configuration without the lines of settings that belong to a recovery.
fn without_recovery(conf: &[u8]) -> Vec<u8> {
    let belongs = |line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        let name = text.trim_start().split(['=', ' ', '\t']).next().unwrap_or_default();
        BELONG_TO_A_RECOVERY.iter().any(|setting| setting.eq_ignore_ascii_case(name))
    };
    let lines = conf.split_inclusive(|byte| *byte == b'\n').filter(|line| !belongs(line));
    let mut kept: Vec<u8> = lines.flatten().copied().collect();
    if kept.last().is_some_and(|last| *last != b'\n') {
        kept.push(b'\n');
    }
    kept
}

/// A value as configuration files have it (`guc-file.l`): in quotes, with quotes doubled and
/// backslashes escaped; a line break, which none may have, as its escape.
#[must_use]
pub fn quote_conf(value: &str) -> String {
    let mut quoted = String::from("'");
    for c in value.chars() {
        match c {
            '\'' => quoted += "''",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A word of a `restore_command`: in single quotes for the shell, and with `%` doubled for the
/// server, which puts names in for it.
#[must_use]
pub fn quote_shell(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use pg_types::Lsn;

    use super::*;

    fn recovery(server_major: u32) -> Recovery {
        Recovery {
            server_major,
            restore_command: "seawall restore-wal -A /a \"%f\" \"%p\"".to_owned(),
            standby: None,
            target: Target::End,
            time: String::new(),
            inclusive: true,
            action: None,
            timeline: None,
        }
    }

    fn text(recovery: &Recovery, auto_conf: &str) -> String {
        let files = recovery.files(auto_conf.as_bytes()).into_iter();
        let each =
            files.map(|(name, text)| format!("[{name}]\n{}", String::from_utf8(text).unwrap()));
        each.collect()
    }

    #[test]
    fn by_version() {
        let standby = Standby {
            conninfo: Some("host=a password='it''s'".to_owned()),
            slot: Some("s".to_owned()),
        };
        let command = "restore_command = 'seawall restore-wal -A /a \"%f\" \"%p\"'\n";
        let streams = "primary_conninfo = 'host=a password=''it''''s'''\nprimary_slot_name = 's'\n";
        let newest = "recovery_target_timeline = 'latest'\n";
        let standby = Some(standby);
        assert_eq!(
            text(&Recovery { standby: standby.clone(), ..recovery(11) }, "x = '1'\n"),
            format!(
                "[recovery.conf]\nstandby_mode = 'on'\n{command}{newest}{streams}[postgresql.auto.conf]\nx = '1'\n"
            )
        );
        assert_eq!(
            text(&Recovery { standby, ..recovery(12) }, "x = '1'"),
            format!(
                "[postgresql.auto.conf]\nx = '1'\n# Written by seawall restore.\n{command}{newest}{streams}[standby.signal]\n"
            )
        );
        let target = Recovery {
            target: Target::Lsn(Lsn::new(0x300_0028)),
            inclusive: false,
            action: Some("promote"),
            timeline: TimelineId::new(2),
            ..recovery(18)
        };
        assert!(text(&target, "").contains(
            "recovery_target_timeline = '2'\nrecovery_target_lsn = '0/3000028'\n\
             recovery_target_inclusive = 'off'\nrecovery_target_action = 'promote'\n[recovery.signal]\n"
        ));
    }

    #[test]
    fn what_an_earlier_recovery_left_is_dropped() {
        let old = "# Do not edit this file manually!\nprimary_conninfo = 'x'\nwork_mem = '1MB'\n\
                   Recovery_Target_Time='y'\nrecovery_target_timeline_x = 1\nrestore_command = 'z'";
        let kept =
            "# Do not edit this file manually!\nwork_mem = '1MB'\nrecovery_target_timeline_x = 1\n";
        assert_eq!(without_recovery(old.as_bytes()), kept.as_bytes());
    }

    #[test]
    fn quoting() {
        assert_eq!(quote_shell("/srv/wal"), "/srv/wal");
        assert_eq!(quote_shell("/a b/it's 100%"), r"'/a b/it'\''s 100%%'");
        assert_eq!(quote_shell(""), "''");
        assert_eq!(quote_conf(r"a'b\c"), r"'a''b\\c'");
        assert_eq!(quote_conf("a\nb"), r"'a\nb'");
    }
}
