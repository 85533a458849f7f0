//! Each command beside the real server's: columns, types, tags, errors.

use super::receive_and_serve;
use super::wire::{Message, REPLICATION, Wire, error, row};
use crate::common::{LIMIT, Must, Receiver, on_each_major, scratch, server, server_flush};

/// A row's values that differ between two servers by nature, by the command's beginning and place.
const DIFFERENT: &[(&str, usize)] = &[("IDENTIFY_SYSTEM", 2)];

on_each_major!(answers_are_the_real_servers, super::check);

fn check(major: u32) {
    let (primary, dir) = (server(major, 1, &[]), scratch());
    let (mut receiver, port) = receive_and_serve(&primary, &dir.path().join("archive"));
    let end = server_flush(&primary);
    receiver.await_flush(&primary, end);
    let (mut real, theirs) = Wire::log_in(primary.port(), REPLICATION);
    let (mut ours, said) = Wire::log_in(port, REPLICATION);
    assert_eq!(names_of_parameters(&said), names_of_parameters(&theirs));
    let reserve = if major >= 15 { "(RESERVE_WAL)" } else { "RESERVE_WAL" };
    let temporary = format!("CREATE_REPLICATION_SLOT \"t\" TEMPORARY PHYSICAL {reserve}");
    let commands = [
        "IDENTIFY_SYSTEM",
        "SHOW wal_segment_size",
        "SHOW data_directory_mode",
        "SHOW server_version_num",
        "SHOW wal_sender_timeout",
        "SHOW nothing_of_the_kind",
        "SHOW work_mem;",
        "SHOW primary_conninfo;",
        "SHOW hot_standby_feedback",
        "TIMELINE_HISTORY 7",
        "TIMELINE_HISTORY 0",
        "READ_REPLICATION_SLOT \"nobody\"",
        "CREATE_REPLICATION_SLOT \"here\" PHYSICAL",
        "CREATE_REPLICATION_SLOT \"here\" PHYSICAL",
        "READ_REPLICATION_SLOT \"here\"",
        "CREATE_REPLICATION_SLOT Bare PHYSICAL;",
        "DROP_REPLICATION_SLOT bare;",
        "CREATE_REPLICATION_SLOT \"No\" PHYSICAL",
        &temporary,
        "DROP_REPLICATION_SLOT \"t\"",
        "DROP_REPLICATION_SLOT \"nobody\"",
        "START_REPLICATION SLOT \"nobody\" 0/1000000 TIMELINE 1",
        "START_REPLICATION 0/1000000 TIMELINE 9",
        "DROP_REPLICATION_SLOT \"here\"",
        "SELECT 1",
        "identify_system",
        "START_REPLICATION",
        "",
    ];
    for command in commands {
        let (theirs, ours) = (real.query(command), ours.query(command));
        assert_eq!(shown(command, &ours), shown(command, &theirs), "{command}");
    }
    // Whoever names a database is served all that isn't logical.
    let parameters = &[("user", "postgres"), ("database", "postgres"), ("replication", "database")];
    let (mut theirs, _) = Wire::log_in(primary.port(), parameters);
    let (mut by_name, _) = Wire::log_in(port, parameters);
    for command in ["IDENTIFY_SYSTEM", "CREATE_REPLICATION_SLOT \"d\" PHYSICAL"] {
        let (theirs, ours) = (theirs.query(command), by_name.query(command));
        assert_eq!(shown(command, &ours), shown(command, &theirs), "{command}");
    }
    let sql = by_name.query("SELECT 1");
    assert!(sql.iter().any(|(_, body)| error(body).contains("has WAL and no database")));
    // One that names none at all is heard out first, as health checks have it.
    let (_, heard) = Wire::log_in(port, &[("user", "postgres"), ("database", "postgres")]);
    assert_eq!(heard.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [b'R', b'E']);
    // Of all settings only what they are: fewer than a database has.
    let of = |mut heard: Vec<Message>| {
        let tags: String = heard.iter().map(|(tag, _)| *tag as char).collect();
        (heard.remove(0), tags.replace("DD", "").replace('D', ""))
    };
    assert_eq!(of(ours.query("SHOW ALL;")), of(real.query("SHOW ALL;")));
    // A stream from a position that isn't there yet fails behind CopyBothResponse.
    let ahead = "START_REPLICATION F/0 TIMELINE 1";
    let of = |wire: &mut Wire| {
        let mut heard = wire.query(ahead);
        heard.extend(wire.until_ready());
        heard
    };
    let (theirs, ours) = (of(&mut real), of(&mut ours));
    let tags = |heard: &[Message]| heard.iter().map(|(tag, _)| *tag as char).collect::<String>();
    assert_eq!(tags(&ours), tags(&theirs));
    receiver.stop();
}

fn names_of_parameters(heard: &[Message]) -> Vec<String> {
    let statuses = heard.iter().filter(|(tag, _)| *tag == b'S');
    let names = statuses.map(|(_, body)| body.split(|byte| *byte == 0).next().unwrap_or_default());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// What was said, with what differs by nature left out.
fn shown(command: &str, heard: &[Message]) -> Vec<String> {
    let different = DIFFERENT.iter().find(|(begins, _)| command.starts_with(begins));
    let show = |(tag, body): &Message| match *tag {
        b'E' => error(body),
        b'D' => {
            let values = row(body).into_iter().enumerate().map(|(place, value)| {
                let differs = different.is_some_and(|(_, at)| *at == place);
                if differs { "…".to_owned() } else { value }
            });
            values.collect::<Vec<_>>().join(" | ")
        }
        tag => format!("{} {}", tag as char, body.escape_ascii()),
    };
    heard.iter().map(show).collect()
}

/// psql, which is what a person would use.
#[test]
fn psql_speaks_to_it() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let (receiver, port) = receive_and_serve(&primary, &dir.path().join("archive"));
    let ask = |port: u16, command: &str| {
        let mut psql = primary.install().client_command("psql");
        let conninfo = format!("{} dbname=replication replication=on", super::conninfo(port));
        psql.args(["-X", "-A", "-d", &conninfo, "-c", command]);
        let output = testkit::process::run(&mut psql, LIMIT, command).must();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for command in ["SHOW wal_segment_size", "READ_REPLICATION_SLOT \"nobody\""] {
        assert_eq!(ask(port, command), ask(primary.port(), command), "{command}");
    }
    receiver.stop();
}

/// A slot whose follower stays away is let go at its bound, and says so whoever asks.
#[test]
fn a_slot_that_keeps_too_much_is_let_go() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let (options, port) = super::served(&["--max-follower-retention", "2MB"]);
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_flush(&primary, server_flush(&primary));
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("CREATE_REPLICATION_SLOT \"away\" PHYSICAL (RESERVE_WAL)");
    wire.query("CREATE_REPLICATION_SLOT \"idle\" PHYSICAL");
    super::work(&primary);
    receiver.await_flush(&primary, super::work(&primary));
    receiver.running.wait_for_line("ALARM: the follower's slot \"away\"", LIMIT).must();
    let heard = wire.query("START_REPLICATION SLOT \"away\" 0/1000000 TIMELINE 1");
    let says = |(tag, body): &Message| *tag == b'E' && error(body).contains("C55000");
    assert!(heard.iter().any(says), "{heard:?}");
    let said = heard.iter().find(|(tag, _)| *tag == b'E').map(|(_, body)| error(body));
    let said = said.unwrap_or_default();
    assert!(said.contains("can no longer access replication slot \"away\""), "{said}");
    let status = crate::status::json(&archive);
    let slots = &status["server"]["slots"];
    assert_eq!((&slots[0]["name"], slots[0]["lost"].is_string()), (&"away".into(), true));
    assert_eq!((&slots[1]["name"], slots[1]["lost"].is_null()), (&"idle".into(), true));
    let text = crate::program::ended(crate::program::seawall(&["status", "-A"]).arg(&archive));
    assert!(text.stdout.contains("slot        away, ALARM: let go"), "{}", text.stdout);
    assert!(text.stdout.contains("follower    wire ("), "{}", text.stdout);
    receiver.stop();
}
