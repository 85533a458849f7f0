//! The files that libpq reads by itself, and those that it is told of: what psql 18 makes of them,
//! seawall makes of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use testkit::process::Running;
use testkit::servers::full;

use super::certificates::certificates;
use super::scene::{Comparison, PASSWORD, Scene, WITH_PASSWORD};
use crate::common::{LIMIT, Must, on_each_major};
use crate::program::seawall;

fn put(home: &Path, from: &str, to: &str, mode: u32) {
    let to = home.join(".postgresql").join(to);
    let _ = fs::remove_file(&to);
    fs::copy(certificates().join(from), &to).must();
    fs::set_permissions(&to, Permissions::from_mode(mode)).must();
}

fn default_files(major: u32) {
    let scene = Scene::new(major);
    let home = scene.home("home");
    let mut comparison = Comparison::default();
    let mut each = |what: &[(&str, &str)]| {
        for (role, mode) in what {
            let conninfo = scene.conninfo(role, &format!("sslmode={mode}"));
            comparison.same(&scene, &conninfo, &home);
        }
    };
    let modes = [("t_scram", "prefer"), ("t_scram", "require"), ("t_scram", "verify-ca")];
    let modes = if full(major) { &modes[..] } else { &modes[1..] };
    each(modes);
    // With authorities at hand every mode verifies that has TLS.
    put(&home, "ca.crt", "root.crt", 0o644);
    each(modes);
    put(&home, "other-ca.crt", "root.crt", 0o644);
    each(modes);
    put(&home, "nonsense.crt", "root.crt", 0o644);
    each(modes);
    put(&home, "ca.crt", "root.crt", 0o644);
    put(&home, "other.crl", "root.crl", 0o644);
    each(modes);
    put(&home, "ca.crl", "root.crl", 0o644);
    each(modes);
    let modes = &[("t_cert", "require"), ("t_cert", "prefer"), ("t_scram", "prefer")];
    each(modes);
    put(&home, "client.crt", "postgresql.crt", 0o644);
    // No key; the key of another; one that others can read; one that is as it should be.
    each(modes);
    put(&home, "client-other.key", "postgresql.key", 0o600);
    each(modes);
    for mode in [0o644, 0o660, 0o640, 0o604, 0o600, 0o400] {
        put(&home, "client.key", "postgresql.key", mode);
        each(&modes[..2]);
    }
    put(&home, "nonsense.crt", "postgresql.crt", 0o644);
    each(modes);
    comparison.finish(30);
}

on_each_major!(default_files_of_libpq, super::default_files);

#[test]
fn authorities_of_the_system() {
    let scene = Scene::new(18);
    let nowhere = Path::new("/nonexistent");
    let mut comparison = Comparison::default();
    let file = |name: &str| certificates().join(name).display().to_string();
    let (right, wrong, missing) = (file("ca.crt"), file("other-ca.crt"), file("missing.crt"));
    for bundle in [&right, &wrong, &missing, &file("both.crt")] {
        for more in ["", "sslmode=verify-full", "sslmode=verify-ca", "sslmode=require"] {
            let more = format!("hostaddr=127.0.0.1 sslrootcert=system {more}");
            let conninfo = scene.conninfo("t_scram", &more);
            let env = [WITH_PASSWORD, &[("SSL_CERT_FILE", bundle), ("SSL_CERT_DIR", "/none")]];
            comparison.same_in(&scene, &conninfo, nowhere, &env.concat());
        }
    }
    // Those that this machine has don't vouch for the test's server.
    comparison.same(&scene, &scene.conninfo("t_scram", "sslrootcert=system"), nowhere);
    comparison.finish(16);
}

#[test]
fn keys_of_every_kind() {
    let scene = Scene::new(18);
    let (dir, nowhere) = (certificates().display(), Path::new("/nonexistent"));
    let mut comparison = Comparison::default();
    let link = scene.scratch.path().join("link.key");
    symlink(certificates().join("client.key"), &link).must();
    let link = link.display();
    for more in [
        format!("sslkey={dir}/client.key"),
        format!("sslkey={dir}/der.key"),
        format!("sslkey={link}"),
        format!("sslkey={dir}/encrypted.key sslpassword='c4n4ry key'"),
        format!("sslkey={dir}/encrypted.key sslpassword='c4n4ry wrong'"),
        format!("sslkey={dir}/encrypted.key"),
        format!("sslkey={dir}/client.key sslpassword=c4n4ry"),
        format!("sslkey={dir}/client-other.key"),
        format!("sslkey={dir}/missing.key"),
        format!("sslkey={dir}"),
        format!("sslkey={dir}/client.crt"),
        String::new(),
    ] {
        let more = format!("sslmode=require sslcert={dir}/client.crt {more}");
        comparison.same(&scene, &scene.conninfo("t_cert", &more), nowhere);
    }
    let old = format!(
        "sslmode=require sslcert={dir}/client.crt sslkey={dir}/old-form.key sslpassword='c4n4ry key'"
    );
    comparison.stricter(&scene, &scene.conninfo("t_cert", &old), nowhere, "openssl pkcs8 -topk8");
    for cert in ["missing.crt", "nonsense.crt", "client.key/x", "client.crt"] {
        let key = format!("sslcert={dir}/{cert} sslkey={dir}/client.key");
        let conninfo = |mode| scene.conninfo("t_scram", &format!("sslmode={mode} {key}"));
        comparison.same(&scene, &conninfo("prefer"), nowhere);
        if certificates().join(cert).exists() {
            comparison.same(&scene, &conninfo("require"), nowhere);
        } else {
            comparison.stricter(&scene, &conninfo("require"), nowhere, "certificate file");
        }
    }
    comparison.finish(16);
}

#[test]
fn password_files() {
    let scene = Scene::new(18);
    let home = scene.home("home");
    let mut comparison = Comparison::default();
    let (file, port) = (home.join(".pgpass"), scene.server.port().to_string());
    let mut mode = 0o600;
    let mut each = |content: String, mode: u32, host: &str| {
        fs::write(&file, content).must();
        fs::set_permissions(&file, Permissions::from_mode(mode)).must();
        let more = "hostaddr=127.0.0.1 sslmode=require";
        let conninfo = scene.conninfo("t_scram", more).replace("host=127.0.0.1", host);
        comparison.same_in(&scene, &conninfo, &home, &[]);
    };
    let (word, host) = (PASSWORD, "host=localhost");
    for line in [
        format!("*:*:*:*:{word}"),
        format!("localhost:{port}:replication:t_scram:{word}"),
        format!("localhost:{port}:replication:t_scram:{word}:more\n"),
        format!("localhost:{port}:replication:t_scram:{word}\r\n"),
        format!("localhost:{port}:postgres:t_scram:{word}\n"),
        format!("localhost:1:*:*:{word}"),
        format!("#*:*:*:*:{word}"),
        format!(" *:*:*:*:{word}"),
        format!("*:*:*:*:c4n4ry wrong\n*:*:*:*:{word}"),
        format!("loc\\alhost:*:*:*:\\{word}"),
        format!("\\*:*:*:*:{word}"),
        format!("*:*:*:*:{}\\ pass", &word[..6]),
        format!("127.0.0.1:*:*:*:{word}"),
        format!("localhost:*:*:*:{word}\\"),
        "localhost:*:*:*:".to_owned(),
        "\n\n:::\n".to_owned(),
    ] {
        each(line, mode, host);
    }
    each(format!("127.0.0.1:*:*:*:{word}"), mode, "");
    for other in [0o400, 0o640, 0o604, 0o601, 0o700] {
        mode = other;
        each(format!("*:*:*:*:{word}"), mode, host);
    }
    comparison.finish(20);
}

/// A receiver that runs for long sees its password changed.
#[test]
fn a_changed_password_counts_from_the_next_connection_on() {
    let scene = Scene::new(18);
    let home = scene.home("home");
    let write = |password: &str| {
        fs::write(home.join(".pgpass"), format!("*:*:replication:*:{password}\n")).must();
        fs::set_permissions(home.join(".pgpass"), Permissions::from_mode(0o600)).must();
    };
    write(PASSWORD);
    let archive = scene.scratch.path().join("archive");
    let mut command = seawall(&["receive", "--no-slot", "-s", "1", "-A"]);
    command.arg(&archive).args(["-d", &scene.conninfo("t_scram", "")]).env("HOME", &home);
    let receiver = Running::spawn(&mut command, "seawall receive").must();
    let await_flush = || {
        scene.server.sql("SELECT txid_current()").must();
        let flushed =
            "(SELECT max(flush_lsn) FROM pg_stat_replication) >= pg_current_wal_flush_lsn()";
        if let Err(error) = scene.server.wait_until("all of it to be durable", LIMIT, flushed) {
            panic!("{error}\n{}", receiver.output_tail());
        }
    };
    await_flush();
    scene
        .server
        .sql(
            "ALTER ROLE t_scram PASSWORD 'c4n4ry new';
             SELECT pg_terminate_backend(pid) FROM pg_stat_replication",
        )
        .must();
    receiver.wait_for_line("password authentication failed", LIMIT).must();
    write("c4n4ry new");
    await_flush();
    assert!(!receiver.output_tail().contains("c4n4ry"));
}

#[test]
fn services() {
    let scene = Scene::new(18);
    let home = scene.home("home");
    let mut comparison = Comparison::default();
    let (port, dir) = (scene.server.port(), scene.scratch.path().display().to_string());
    let whole = format!("host=127.0.0.1\nport={port}\nuser=t_scram\nsslmode=require\n");
    let with_password = format!("{whole}password={PASSWORD}\n");
    let named = scene.scratch.path().join("named.conf");
    let text = format!(
        "# comment\n[bad]\nhost = 127.0.0.1\n[nested]\nservice=good\n[unknown]\nno_such=1\n\
         [good]\n{with_password}\n [spaced]  \n  {}\nuser=nobody\n[noval]\nport\n[part]\nuser=t_scram\n",
        with_password.replace('\n', "  \n\t")
    );
    fs::write(&named, &text).must();
    fs::write(home.join(".pg_service.conf"), format!("[at-home]\n{with_password}")).must();
    let system = scene.home("system");
    fs::write(system.join("pg_service.conf"), format!("[of-system]\n{with_password}")).must();
    let (named, system) = (named.display().to_string(), system.display().to_string());
    for service in ["good", "spaced", "bad", "nested", "unknown", "noval", "none", "", "[good]"] {
        let env = [("PGSERVICEFILE", named.as_str())];
        comparison.same_in(&scene, &format!("service='{service}'"), &home, &env);
    }
    for (conninfo, env) in [
        ("", vec![("PGSERVICEFILE", named.as_str()), ("PGSERVICE", "good")]),
        ("service=at-home", vec![]),
        ("service=at-home", vec![("PGSERVICEFILE", "/none")]),
        ("service=of-system", vec![("PGSYSCONFDIR", system.as_str())]),
        ("service=of-system", vec![("PGSYSCONFDIR", &dir)]),
        ("service=good", vec![("PGSERVICEFILE", named.as_str()), ("PGUSER", "nobody")]),
        ("service=good user=nobody", vec![("PGSERVICEFILE", named.as_str())]),
        ("service=good sslmode=disable", vec![("PGSERVICEFILE", named.as_str())]),
        ("postgresql://?service=at-home", vec![("PGPORT", "1")]),
    ] {
        if conninfo.starts_with("postgresql:") {
            let (ours, ended) = scene.seawall_uri(conninfo, &home, &env);
            assert!(ours, "{ended:#?}");
            continue;
        }
        comparison.same_in(&scene, conninfo, &home, &env);
    }
    let part = scene.conninfo("t_ssl", "service=part sslmode=require");
    let env = [WITH_PASSWORD, &[("PGSERVICEFILE", named.as_str())]].concat();
    comparison.same_in(&scene, &part, &home, &env);
    comparison.finish(16);
}
