//! Clients' certificates of every kind, with revocation lists and without: what the real server takes
//! is taken here.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use testkit::process::run_unchecked;
use testkit::servers::{Install, Server, ServerOptions};

use super::Serving;
use crate::common::{LIMIT, Must, Receiver, ReceiverOptions, pg, scratch, server_flush};
use crate::tls::certificates::{certificates, names};

/// It is verified by OpenSSL, and by nothing here.
const NOT_HERE: [&str; 1] = ["p521"];

const HBA: &str = "local all all trust\nlocal replication all trust\n\
                   hostnossl replication all 127.0.0.1/32 trust\n\
                   hostssl replication all 127.0.0.1/32 cert\n";

/// IDENTIFY_SYSTEM by real psql, which shows these certificates; what it says if it fails.
fn asks(install: &Install, port: u16, user: &str, [shown, key]: [&Path; 2]) -> Result<(), String> {
    let mut psql = install.client_command("psql");
    let conninfo = format!(
        "host=127.0.0.1 port={port} user='{user}' replication=1 dbname=x sslmode=require \
         sslcert={} sslkey={}",
        shown.display(),
        key.display()
    );
    psql.args(["-X", "-w", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"]);
    let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(error) }
}

#[test]
fn what_the_server_takes_is_taken() {
    let (install, dir) = (pg(18), scratch());
    let hba = Some(HBA.to_owned());
    let options = ServerOptions { hba, segment_size_mb: 1, ..Default::default() };
    let primary = Server::start(&install, &options).must();
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_flush(&primary, server_flush(&primary));
    receiver.stop();
    let owner = fs::metadata(primary.data_dir()).must();
    let put = |from: &str, to: &Path, is_servers: bool| {
        fs::copy(certificates().join(from), to).must();
        fs::set_permissions(to, Permissions::from_mode(0o600)).must();
        if is_servers {
            chown(to, Some(owner.uid()), Some(owner.gid())).must();
        }
    };
    for end in ["crt", "key"] {
        put(&format!("good.{end}"), &primary.data_dir().join(format!("server.{end}")), true);
        put(&format!("good.{end}"), &dir.path().join(format!("server.{end}")), false);
    }
    primary.sql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").must();
    for user in names().map(|(_, user)| user).collect::<BTreeSet<_>>() {
        primary.sql(&format!("CREATE ROLE \"{user}\" LOGIN REPLICATION")).must();
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (mut taken, mut refused) = (0, 0);
    for (authority, list) in [
        ("ca.crt", ""),
        ("both.crt", ""),
        ("middle.crt", ""),
        ("ca.crt", "ca.crl"),
        ("ca.crt", "stale.crl"),
        ("ca.crt", "other.crl"),
    ] {
        put(authority, &primary.data_dir().join("root.crt"), true);
        if !list.is_empty() {
            put(list, &primary.data_dir().join("root.crl"), true);
        }
        let set = if list.is_empty() { "''" } else { "'root.crl'" };
        for sql in [format!("ssl_crl_file = {set}"), "ssl = on".to_owned()] {
            primary.sql(&format!("ALTER SYSTEM SET {sql}")).must();
        }
        primary.reload().must();
        let files = [path("server.crt"), path("server.key")];
        let root = certificates().join(authority).display().to_string();
        let crl = certificates().join(list).display().to_string();
        let mut more = vec!["--serve-auth", "cert", "--tls-cert", &files[0], "--tls-key"];
        more.extend([files[1].as_str(), "--tls-ca", &root]);
        if !list.is_empty() {
            more.extend(["--tls-crl", &crl]);
        }
        let serving = Serving::start(&archive, &more);
        for (name, user) in names() {
            // With what is between, for those that need it.
            let shown = dir.path().join("shown.crt");
            let read = |name: &str| fs::read(certificates().join(format!("{name}.crt"))).must();
            fs::write(&shown, [read(name), read("middle")].concat()).must();
            let key = certificates().join(format!("{name}.key"));
            let real = asks(&install, primary.port(), user, [&shown, &key]);
            let ours = asks(&install, serving.port, user, [&shown, &key]);
            if NOT_HERE.contains(&name) {
                assert!(ours.is_err(), "{name} is taken now: say so in docs/CONNECTING.md");
                continue;
            }
            let what = format!("{name} under {authority} with {list}: {real:?}, here {ours:?}");
            assert_eq!(real.is_ok(), ours.is_ok(), "{what}\n{}", serving.running.output_tail());
            *(if real.is_ok() { &mut taken } else { &mut refused }) += 1;
        }
        serving.stop();
    }
    assert!(taken > 20 && refused > 20, "{taken} taken, {refused} refused");
}
