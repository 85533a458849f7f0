use proptest::prelude::*;

use super::*;

fn ok(text: &str, major: u32) -> Command {
    parse(text, major).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"))
}

#[track_caller]
fn refused(text: &str, major: u32, sqlstate: &[u8; 5], message: &str) {
    let refusal = parse(text, major).expect_err(text);
    assert_eq!((refusal.sqlstate.0, refusal.message.as_str()), (*sqlstate, message), "{text}");
    assert!(!refusal.is_fatal());
}

fn create(name: &str, temporary: bool, reserve_wal: bool) -> Command {
    Command::CreateSlot { name: name.to_owned(), temporary, reserve_wal }
}

fn start(slot: Option<&str>, at: u64, timeline: Option<u32>) -> Command {
    let timeline = timeline.and_then(TimelineId::new);
    Command::Start { slot: slot.map(str::to_owned), at: Lsn::new(at), timeline }
}

#[test]
fn what_the_real_clients_send() {
    for major in 14..=18 {
        let same = |text: &str, command: Command| assert_eq!(ok(text, major), command);
        same("IDENTIFY_SYSTEM", Command::IdentifySystem);
        same("SHOW data_directory_mode", Command::Show("data_directory_mode".to_owned()));
        same("CREATE_REPLICATION_SLOT \"s\" PHYSICAL", create("s", false, false));
        same("START_REPLICATION 0/3000000 TIMELINE 1", start(None, 0x300_0000, Some(1)));
        same(
            "START_REPLICATION SLOT \"s\" 1/A TIMELINE 2",
            start(Some("s"), 1 << 32 | 10, Some(2)),
        );
        same("TIMELINE_HISTORY 2", Command::TimelineHistory(TimelineId::new(2).unwrap()));
        let drop = Command::DropSlot { name: "s".to_owned(), wait: false };
        same("DROP_REPLICATION_SLOT \"s\"", drop);
    }
    let temporary = "CREATE_REPLICATION_SLOT \"pg_basebackup_7\" TEMPORARY PHYSICAL ";
    let expect = create("pg_basebackup_7", true, true);
    assert_eq!(ok(&format!("{temporary}RESERVE_WAL"), 14), expect);
    assert_eq!(ok(&format!("{temporary}( RESERVE_WAL)"), 15), expect);
    let backup = |text: &str, major: u32| match ok(text, major) {
        Command::BaseBackup(backup) => backup,
        other => panic!("{other:?}"),
    };
    let of14 = backup(
        "BASE_BACKUP LABEL 'pg_basebackup base backup' PROGRESS  FAST NOWAIT    MANIFEST 'yes' ",
        14,
    );
    let of18 = backup(
        "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  \
         MANIFEST 'yes',  TARGET 'client')",
        18,
    );
    assert_eq!(of14, of18);
    assert_eq!((of14.label.as_str(), of14.progress), ("pg_basebackup base backup", true));
    let manifest = ManifestForm { checksums: "CRC32C", force_encode: false };
    assert_eq!((of14.manifest, of14.wal, of14.tablespace_map), (Some(manifest), false, false));
}

#[test]
fn words_as_the_scanner_reads_them() {
    let same = |text: &str, command: Command| assert_eq!(ok(text, 18), command, "{text}");
    same("IDENTIFY_SYSTEM\n;", Command::IdentifySystem);
    same("SHOW \"TimeZone\"", Command::Show("TimeZone".to_owned()));
    same("SHOW a.B.c", Command::Show("a.b.c".to_owned()));
    same("CREATE_REPLICATION_SLOT Ab PHYSICAL", create("ab", false, false));
    same("CREATE_REPLICATION_SLOT \"A\"\"b\" PHYSICAL", create("A\"b", false, false));
    let long = "a".repeat(64);
    let name = &long[1..];
    same(&format!("CREATE_REPLICATION_SLOT {long} PHYSICAL"), create(name, false, false));
    same("START_REPLICATION PHYSICAL f/1", start(None, 15 << 32 | 1, None));
    same("START_REPLICATION 123456789/1", start(None, 0x2345_6789 << 32 | 1, None));
    let wrapped = TimelineId::new(1_215_752_191).unwrap();
    same("TIMELINE_HISTORY 99999999999", Command::TimelineHistory(wrapped));
    same("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL false)", create("s", false, false));
    same("CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL", create("s", false, true));
}

#[test]
fn what_is_no_replication_command_is_sql() {
    for text in ["", " ", ";", "SELECT 1", "identify_system", "\"x\"", "12 x", "$$", "show x"] {
        assert_eq!(ok(text, 18), Command::Sql, "{text}");
    }
    assert_eq!(ok("READ_REPLICATION_SLOT x", 14), Command::Sql);
    assert_eq!(ok("READ_REPLICATION_SLOT x", 15), Command::ReadSlot("x".to_owned()));
    assert_eq!(ok("UPLOAD_MANIFEST", 16), Command::Sql);
    assert_eq!(ok("UPLOAD_MANIFEST", 17), Command::Other("UPLOAD_MANIFEST"));
}

#[test]
fn refusals_in_the_servers_words() {
    let syntax = |text: &str, major| refused(text, major, b"42601", "syntax error");
    for text in [
        "IDENTIFY_SYSTEM x",
        "IDENTIFY_SYSTEM ; IDENTIFY_SYSTEM",
        "SHOW",
        "SHOW wal_level; SELECT",
        "TIMELINE_HISTORY",
        "TIMELINE_HISTORY x",
        "CREATE_REPLICATION_SLOT a",
        "CREATE_REPLICATION_SLOT a PHYSICAL b",
        "CREATE_REPLICATION_SLOT a PHYSICAL ()",
        "DROP_REPLICATION_SLOT A-b",
        "START_REPLICATION xyz",
        "START_REPLICATION 1/2/3",
        "START_REPLICATION 0/1 TIMELINE",
        "START_REPLICATION 0/1 (a 'b')",
    ] {
        syntax(text, 14);
        syntax(text, 18);
    }
    syntax("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL)", 14);
    syntax("READ_REPLICATION_SLOT", 15);
    syntax("BASE_BACKUP (MAX_RATE 5)", 14);
    syntax("BASE_BACKUP LABEL 'x' MAX_RATE 5", 15);
    syntax("BASE_BACKUP LABEL", 14);
    syntax("BASE_BACKUP ( LABEL 'x' PROGRESS)", 15);
    let check =
        |text: &str, sqlstate: &[u8; 5], message: &str| refused(text, 18, sqlstate, message);
    check("TIMELINE_HISTORY 0", b"42601", "invalid timeline 0");
    check("'x", b"42601", "unterminated quoted string");
    check("IDENTIFY_SYSTEM \"x", b"42601", "unterminated quoted string");
    let slot = "CREATE_REPLICATION_SLOT s PHYSICAL ";
    let twice = "conflicting or redundant options";
    check(&format!("{slot}RESERVE_WAL RESERVE_WAL"), b"42601", twice);
    check(&format!("{slot}(RESERVE_WAL,RESERVE_WAL)"), b"42601", twice);
    check(&format!("{slot}(SNAPSHOT 'export')"), b"42601", twice);
    let boolean = "reserve_wal requires a Boolean value";
    check(&format!("{slot}(RESERVE_WAL 'maybe')"), b"42601", boolean);
    check(&format!("{slot}(NOSUCH)"), b"XX000", "unrecognized option: nosuch");
}

#[test]
fn a_base_backups_options_are_refused_in_the_servers_words() {
    let syntax = |options: &str, message: &str| {
        refused(&format!("BASE_BACKUP ({options})"), 18, b"42601", message);
    };
    syntax("NOSUCH", "unrecognized base backup option: \"nosuch\"");
    syntax("FAST 'a'", "unrecognized base backup option: \"fast\"");
    syntax("LABEL 'a', LABEL 'b'", "duplicate option \"label\"");
    syntax("LABEL", "label requires a parameter");
    syntax("MANIFEST, X", "manifest requires a parameter");
    syntax("WAIT 7", "wait requires a Boolean value");
    syntax("WAL 'yes'", "wal requires a Boolean value");
    syntax("CHECKPOINT 'x'", "unrecognized checkpoint type: \"x\"");
    syntax("MANIFEST 'x'", "unrecognized manifest option: \"x\"");
    syntax("MANIFEST_CHECKSUMS 'x'", "unrecognized checksum algorithm: \"x\"");
    syntax("MANIFEST_CHECKSUMS 'sha512'", "manifest checksums require a backup manifest");
    syntax("MAX_RATE '100'", "max_rate requires a numeric value");
    syntax("TARGET_DETAIL 'x'", "target detail cannot be used without target");
    let detail = "target \"client\" does not accept a target detail";
    syntax("TARGET 'client', TARGET_DETAIL 'x'", detail);
    syntax("TARGET 'server'", "target \"server\" requires a target detail");
    let enabled = "compression detail cannot be specified unless compression is enabled";
    syntax("COMPRESSION_DETAIL 4", enabled);
    syntax("COMPRESSION 'GZIP'", "unrecognized compression algorithm: \"GZIP\"");

    let any = |options: &str, major, sqlstate: &[u8; 5], message: &str| {
        refused(&format!("BASE_BACKUP {options}"), major, sqlstate, message);
    };
    let rate = "5 is outside the valid range for parameter \"MAX_RATE\" (32 .. 1048576)";
    any("(MAX_RATE 5)", 18, b"22003", rate);
    any("LABEL 'x' MAX_RATE 5", 14, b"22003", rate);
    any("PROGRESS PROGRESS", 14, b"42601", "duplicate option \"progress\"");
    any("FAST FAST", 14, b"42601", "duplicate option \"fast\"");
    any("NOWAIT NOWAIT", 14, b"42601", "duplicate option \"nowait\"");
    any("(TARGET 'x')", 18, b"0A000", "unrecognized target: \"x\"");
    let summaries = "incremental backups cannot be taken unless WAL summarization is enabled";
    any("(INCREMENTAL)", 17, b"55000", summaries);
    let unknown = "unrecognized base backup option: \"incremental\"";
    any("(INCREMENTAL)", 16, b"42601", unknown);
    let long = format!("(LABEL '{}')", "x".repeat(1025));
    any(&long, 18, b"22023", "backup label too long (max 1024 bytes)");
    any("(CHECKPOINT 'fast') x", 18, b"42601", "syntax error");
    any("(NOSUCH) x", 18, b"42601", "syntax error");
}

#[test]
fn a_compressions_detail() {
    let read = |options: &str, major| parse(&format!("BASE_BACKUP (COMPRESSION {options})"), major);
    let ok = |options: &str, expect: Option<(Method, Option<i32>)>| match read(options, 18) {
        Ok(Command::BaseBackup(backup)) => {
            let expect = expect.map(|(method, level)| Compression { method, level });
            assert_eq!(backup.compression, expect, "{options}");
        }
        other => panic!("{options}: {other:?}"),
    };
    ok("'none'", None);
    ok("'gzip'", Some((Method::Gzip, None)));
    ok("gzip, COMPRESSION_DETAIL 4", Some((Method::Gzip, Some(4))));
    ok("'gzip', COMPRESSION_DETAIL 'level=-1'", Some((Method::Gzip, None)));
    ok("'zstd', COMPRESSION_DETAIL 'long=yes,workers=2,level=-5'", Some((Method::Zstd, Some(-5))));
    let refused = |options: &str, expect: &str| {
        let (method, detail) = options.split_once(' ').unwrap();
        let refusal = read(&format!("'{method}', COMPRESSION_DETAIL '{detail}'"), 18).unwrap_err();
        let message = format!("invalid compression specification: {expect}");
        assert_eq!((refusal.sqlstate.0, refusal.message), (*b"42601", message));
    };
    refused("none 1", "compression algorithm \"none\" does not accept a compression level");
    let gzip = "compression algorithm \"gzip\"";
    let between = "expects a compression level between 1 and 9 (default at -1)";
    refused("gzip 10", &format!("{gzip} {between}"));
    refused("gzip 0", &format!("{gzip} {between}"));
    refused("gzip workers=3", &format!("{gzip} does not accept a worker count"));
    refused("gzip long", &format!("{gzip} does not support long-distance mode"));
    refused("gzip level", "compression option \"level\" requires a value");
    refused("gzip level=x", "value for compression option \"level\" must be an integer");
    let empty = "found empty string where a compression option was expected";
    refused("gzip level=5,", empty);
    refused("gzip ", empty);
    refused("zstd long=x", "value for compression option \"long\" must be a Boolean value");
    refused("zstd foo=3", "unrecognized compression option: \"foo\"");
    assert!(read("'zstd', COMPRESSION_DETAIL 'long'", 15).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        command in prop::sample::select(vec![
            "", "BASE_BACKUP ", "CREATE_REPLICATION_SLOT ", "START_REPLICATION ", "SHOW ",
        ]),
        rest in "([A-Z_]{1,12}|[a-zé'\"/,.;() ]|[0-9]){0,40}",
        major in 14_u32..=18,
    ) {
        let _ = parse(&format!("{command}{rest}"), major);
    }
}
