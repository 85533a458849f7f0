//! Real clients over TLS: the channel that SCRAM is bound to, certificates, and a certificate that
//! is renewed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use testkit::process::{Signal, run_unchecked, run_with_input};
use testkit::servers::Install;

use super::{Serving, await_replay, conninfo, standby_of, work};
use crate::common::{
    LIMIT, Must, Receiver, ReceiverOptions, on_each_major, pg, scratch, server, server_flush,
};
use crate::program::seawall;
use crate::tls::certificates::certificates;

/// IDENTIFY_SYSTEM by real psql; what it says if it fails.
fn asks(install: &Install, port: u16, more: &str) -> Result<(), String> {
    let mut psql = install.client_command("psql");
    // 14 compares names alone with a certificate.
    let at = format!("host=localhost hostaddr=127.0.0.1 port={port}");
    let conninfo = format!("{at} replication=1 dbname=x {more}");
    psql.env("PGPASSWORD", "right").args(["-X", "-w", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"]);
    let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(error) }
}

/// The certificate `name` as the one that is served.
fn show(dir: &Path, name: &str) {
    for end in ["crt", "key"] {
        let to = dir.join(format!("server.{end}"));
        fs::copy(certificates().join(format!("{name}.{end}")), &to).must();
        fs::set_permissions(&to, Permissions::from_mode(0o600)).must();
    }
}

/// libpq begins TLS without asking first if it is told to, from this version on.
const DIRECT_SINCE_MAJOR: u32 = 17;

on_each_major!(real_clients_are_served_over_tls, super::check);

fn check(major: u32) {
    let (primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_flush(&primary, server_flush(&primary));
    let mut add = seawall(&["user", "add", "t_cert", "-A"]);
    run_with_input(add.arg(&archive), "right\n", LIMIT, "seawall user add").must();
    show(dir.path(), "good");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let ca = certificates().join("ca.crt").display().to_string();
    let files = ["--tls-cert", &path("server.crt"), "--tls-key", &path("server.key")];
    let serving = Serving::start(&archive, &files);
    let install = pg(major);
    let trusted = format!("user=t_cert sslmode=verify-full sslrootcert={ca}");
    let bound = format!("{trusted} channel_binding=require");
    asks(&install, serving.port, &bound).must();
    asks(&install, serving.port, &format!("{trusted} channel_binding=disable")).must();
    if major >= DIRECT_SINCE_MAJOR {
        let direct = "sslnegotiation=direct";
        asks(&install, serving.port, &format!("{bound} {direct}")).must();
        let wrong = format!("user=t_cert password=wrong sslmode=require {direct}");
        let wrong = asks(&install, serving.port, &wrong);
        assert!(wrong.is_err_and(|error| error.contains("password authentication failed")));
    }
    let plain = asks(&install, serving.port, "user=t_cert sslmode=disable");
    assert!(plain.is_err_and(|error| error.contains("wants TLS")));
    let wrong = "user=t_cert password=wrong sslmode=require";
    let wrong = asks(&install, serving.port, wrong);
    assert!(wrong.is_err_and(|error| error.contains("password authentication failed")));

    // Renewed: another authority's, at SIGHUP.
    show(dir.path(), "unknown-authority");
    serving.running.kill(Signal::HUP);
    serving.running.wait_for_line("read again", LIMIT).must();
    assert!(asks(&install, serving.port, &bound).is_err());
    // One that can't be used leaves what is there.
    fs::write(path("server.crt"), "").must();
    serving.running.kill(Signal::HUP);
    serving.running.wait_for_line("stays in use", LIMIT).must();
    asks(&install, serving.port, "user=t_cert sslmode=require").must();
    serving.stop();

    // Certificates in place of passwords, and a stream.
    show(dir.path(), "good");
    let more = ["--serve-auth", "cert", "--tls-ca", &ca];
    let serving = Serving::start(&archive, &[&files[..], &more].concat());
    let shows = |name: &str| {
        let [cert, key] = ["crt", "key"].map(|end| certificates().join(format!("{name}.{end}")));
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    asks(&install, serving.port, &format!("user=t_cert {}", shows("client"))).must();
    let other = asks(&install, serving.port, &format!("user=t_cert {}", shows("client-other")));
    assert!(other.is_err_and(|error| error.contains("certificate authentication failed")));
    let none = asks(&install, serving.port, "user=t_cert sslmode=require");
    assert!(none.is_err_and(|error| error.contains("requires a valid client certificate")));
    let stranger = format!("user=localhost {}", shows("unknown-authority"));
    assert!(asks(&install, serving.port, &stranger).is_err());
    serving.stop();
    let serving = Serving::start(&archive, &[&files[..], &["--serve-auth", "trust"]].concat());
    // Streams over TLS that begins by itself, where clients can.
    let direct = format!(
        "primary_conninfo = '{} sslnegotiation=direct sslmode=require'",
        conninfo(serving.port)
    );
    let more = [direct.as_str()];
    let more = if major >= DIRECT_SINCE_MAJOR { &more[..] } else { &[] };
    let mut standby = standby_of(&primary, serving.port, more);
    standby.restart().must();
    await_replay(&standby, work(&primary));
    serving.stop();
    receiver.stop();
}
