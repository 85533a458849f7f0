//! Every `sslmode` with every kind of certificate and every way of authentication: what psql 18
//! makes of it, seawall makes of it.

use std::path::Path;

use testkit::servers::full;

use super::certificates::certificates;
use super::scene::{Comparison, PASSWORD, Scene};
use crate::common::on_each_major;

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

fn root(name: &str) -> String {
    format!("sslrootcert={}/{name}.crt", certificates().display())
}

/// Each way of authentication in each mode, with and without a client's certificate, channel
/// binding, and TLS on the server.
fn ways(major: u32) {
    let scene = Scene::new(major);
    let nowhere = Path::new("/nonexistent");
    let mut comparison = Comparison::default();
    let dir = certificates().display();
    let (with, of_another) = (
        format!("sslcert={dir}/client.crt sslkey={dir}/client.key"),
        format!("sslcert={dir}/client-other.crt sslkey={dir}/client-other.key"),
    );
    let ways = [
        ("t_md5", ""),
        ("t_scram", ""),
        ("t_scram", "channel_binding=require"),
        ("t_md5", "channel_binding=require"),
        ("t_trust", "channel_binding=require"),
        ("t_cert", with.as_str()),
        ("t_cert", &of_another),
        ("t_cert", ""),
        ("t_nossl", ""),
        ("t_ssl", ""),
        ("t_reject", ""),
        ("t_scram", "sslnegotiation=direct"),
        ("t_trust", "require_auth=scram-sha-256"),
    ];
    let few = [MODES[1], MODES[2], MODES[5]];
    let modes = if full(major) { &MODES[..] } else { &few[..] };
    for mode in modes {
        for (role, more) in ways {
            let more = format!("sslmode={mode} {} {more}", root("ca"));
            comparison.same(&scene, &scene.conninfo(role, &more), nowhere);
        }
    }
    let good = format!("sslmode=verify-full {}", root("ca"));
    for (role, more) in [
        ("t_scram", "channel_binding=disable"),
        ("t_scram", "require_auth=!password,!md5"),
        ("t_scram", "require_auth=md5,none"),
        ("t_md5", "require_auth=scram-sha-256"),
        ("t_trust", "require_auth=none"),
        ("t_trust", "require_auth=!none"),
        ("t_scram", "ssl_min_protocol_version=TLSv1.3"),
        ("t_scram", "ssl_max_protocol_version=TLSv1.2"),
        ("t_scram", "ssl_max_protocol_version=TLSv1.2 channel_binding=require"),
        ("t_scram", "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2"),
        ("t_scram", "sslsni=0"),
        ("t_scram", "sslcertmode=require"),
        ("t_scram", &format!("sslcertmode=require {with}")),
        ("t_cert", &format!("sslcertmode=disable {with}")),
        ("t_scram", "max_protocol_version=latest"),
        ("t_scram", "min_protocol_version=3.2"),
        ("t_scram", "gssencmode=disable krbsrvname=x gssdelegation=0 sslcompression=0"),
        ("t_scram", "load_balance_hosts=random target_session_attrs=primary"),
        ("t_scram", "target_session_attrs=standby"),
        ("t_scram", "target_session_attrs=read-write"),
        ("t_scram", "target_session_attrs=prefer-standby"),
    ] {
        let conninfo = scene.conninfo(role, &format!("{good} {more}"));
        comparison.same(&scene, &conninfo, nowhere);
    }
    let log = scene.scratch.path().join("keys").display().to_string();
    for (more, why) in [
        ("sslcompression=1", "sslcompression=1 (in the connection string) is not supported"),
        (&format!("sslkeylogfile={log}"), "sslkeylogfile (in the connection string)"),
    ] {
        let conninfo = scene.conninfo("t_scram", &format!("{good} {more}"));
        comparison.stricter(&scene, &conninfo, nowhere, why);
    }
    if major >= 16 {
        let slow = "SET scram_iterations = 150000; ALTER ROLE t_nossl PASSWORD '{}'";
        scene.server.sql(&slow.replace("{}", PASSWORD)).expect("a password that takes its time");
        let conninfo = scene.conninfo("t_nossl", "sslmode=disable");
        comparison.stricter(&scene, &conninfo, nowhere, "asks for 150000 SCRAM iterations");
    }
    // Sockets have no TLS, whatever the mode says.
    let socket = scene.server.socket_dir().display();
    for more in
        ["sslmode=verify-full", "channel_binding=require", "requirepeer=nobody", "requirepeer=root"]
    {
        let conninfo = format!("host={socket} port={} user=t_trust {more}", scene.server.port());
        comparison.same(&scene, &conninfo, nowhere);
    }
    scene.server.set("ssl", "off").expect("TLS is switched off");
    for mode in modes {
        for (role, more) in [("t_scram", ""), ("t_ssl", ""), ("t_scram", "channel_binding=require")]
        {
            let more = format!("sslmode={mode} {} {more}", root("ca"));
            comparison.same(&scene, &scene.conninfo(role, &more), nowhere);
        }
    }
    comparison.finish(70);
}

on_each_major!(ways_of_authentication, super::ways);

/// Each kind of certificate that a server may have.
fn kinds(major: u32) {
    let scene = Scene::new(major);
    let nowhere = Path::new("/nonexistent");
    let mut comparison = Comparison::default();
    // The certificate with what is sent behind it, the host that it is asked for, the authorities.
    let all: &[(&str, &[&str], &str, &str)] = &[
        ("good", &[], "localhost", "ca"),
        ("good", &[], "127.0.0.1", "both"),
        ("good", &[], "elsewhere", "ca"),
        ("good", &[], "127.1", "ca"),
        ("good", &[], "localhost", "other-ca"),
        ("good", &[], "localhost", "impostor-ca"),
        ("good", &[], "localhost", "missing"),
        ("good", &[], "localhost", "nonsense"),
        ("good", &[], "localhost", "good"),
        ("cn-only", &[], "localhost", "ca"),
        ("cn-only", &[], "LOCALHOST", "ca"),
        ("version-1", &[], "localhost", "ca"),
        ("self-signed-ca", &[], "localhost", "self-signed-ca"),
        ("self-signed-ca", &[], "localhost", "ca"),
        ("self-signed", &[], "localhost", "self-signed"),
        ("wildcard", &[], "db.example.test", "ca"),
        ("wildcard", &[], "a.db.example.test", "ca"),
        ("wildcard", &[], "example.test", "ca"),
        ("address", &[], "127.0.0.1", "ca"),
        ("address", &[], "localhost", "ca"),
        ("dns-address", &[], "127.0.0.1", "ca"),
        ("other-name", &[], "localhost", "ca"),
        ("only-mail", &[], "localhost", "ca"),
        ("unknown-authority", &[], "localhost", "ca"),
        ("impostor", &["impostor-ca"], "localhost", "ca"),
        ("under-v1", &[], "localhost", "v1-ca"),
        ("under-middle", &["middle"], "localhost", "ca"),
        ("under-middle", &[], "localhost", "ca"),
        ("under-middle", &[], "localhost", "middle"),
        ("under-leaf", &["cn-only"], "localhost", "ca"),
        ("under-too-deep", &["too-deep"], "localhost", "short-ca"),
        ("under-narrow", &[], "localhost", "narrow-ca"),
        ("in-narrow", &[], "db.example.test", "narrow-ca"),
        ("under-excluding", &[], "localhost", "excluding-ca"),
        ("beside-excluding", &[], "db.example.test", "excluding-ca"),
        ("for-clients", &[], "localhost", "ca"),
        ("for-servers", &[], "localhost", "ca"),
        ("any-purpose", &[], "localhost", "ca"),
        ("signs-only", &[], "localhost", "ca"),
        ("strange-critical", &[], "localhost", "ca"),
        ("expired", &[], "localhost", "ca"),
        ("sha384", &["middle"], "localhost", "ca"),
        ("sha512", &[], "localhost", "ca"),
        ("pss", &[], "localhost", "ca"),
        ("ed25519", &[], "localhost", "ed25519"),
        ("revoked", &[], "localhost", "ca"),
    ];
    let all = if full(major) { all } else { &all[..12] };
    let mut shown = ("", &[][..]);
    for (name, behind, host, authority) in all {
        if shown != (*name, *behind) {
            scene.show(name, behind);
            shown = (name, behind);
        }
        for mode in ["prefer", "require", "verify-ca", "verify-full"] {
            let more = format!("hostaddr=127.0.0.1 sslmode={mode} {}", root(authority));
            let conninfo =
                scene.conninfo("t_scram", &more).replace("host=127.0.0.1", &format!("host={host}"));
            // A file of authorities that was named, and isn't there, isn't passed over.
            if (*authority, mode) == ("missing", "require") {
                comparison.stricter(&scene, &conninfo, nowhere, "does not exist");
            } else {
                comparison.same(&scene, &conninfo, nowhere);
            }
        }
    }
    // What SCRAM is bound to depends on the hash that signed the certificate.
    for (name, behind, authority) in [
        ("sha384", &["middle"][..], "ca"),
        ("sha512", &[], "ca"),
        ("pss", &[], "ca"),
        ("ed25519", &[], "ed25519"),
    ] {
        scene.show(name, behind);
        for binding in ["require", "disable"] {
            let more = format!("sslmode=verify-ca channel_binding={binding} {}", root(authority));
            comparison.same(&scene, &scene.conninfo("t_scram", &more), nowhere);
        }
    }
    scene.show("p521", &[]);
    let more = format!("sslmode=verify-full {}", root("p521"));
    let conninfo = scene.conninfo("t_scram", &more);
    comparison.stricter(&scene, &conninfo, nowhere, "can't connect");
    let good = "hostaddr=127.0.0.1 sslmode=verify-ca";
    let crl =
        |name: &str| format!("{good} {} sslcrl={}/{name}", root("ca"), certificates().display());
    for (name, behind, lists) in [
        ("good", &[][..], &["ca.crl", "stale.crl", "other.crl"][..]),
        ("revoked", &[], &["ca.crl", "other.crl"]),
        ("under-middle", &["middle"], &["ca.crl"]),
    ] {
        scene.show(name, behind);
        for list in lists {
            comparison.same(&scene, &scene.conninfo("t_scram", &crl(list)), nowhere);
        }
    }
    let (empty, lists) = (scene.home("crls"), certificates().join("lists"));
    for name in ["revoked", "good"] {
        scene.show(name, &[]);
        for directory in [&empty, &lists] {
            let more = format!("{good} {} sslcrldir={}", root("ca"), directory.display());
            comparison.same(&scene, &scene.conninfo("t_scram", &more), nowhere);
        }
    }
    for list in ["missing.crl", "nonsense.crt"] {
        comparison.stricter(
            &scene,
            &scene.conninfo("t_scram", &crl(list)),
            nowhere,
            "certificate revocation list file",
        );
    }
    comparison.finish(50);
}

on_each_major!(kinds_of_certificates, super::kinds);
