use super::*;

type Env<'a> = &'a [(&'a str, &'a str)];

fn resolve_with(
    flags: Flags,
    conninfo: &str,
    env: Env<'_>,
) -> Result<ConnectionSettings, SettingsError> {
    let lookup =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    ConnectionSettings::resolve(&Inputs {
        flags,
        conninfo: Some(conninfo.to_owned()).filter(|text| !text.is_empty()),
        env: &lookup,
        os_user: Some("os".into()),
        home: Some("/home/os".into()),
        socket_dirs: vec!["/var/run/postgresql".into(), "/tmp".into()],
        fallback_application_name: Some("seawall".into()),
    })
}

fn resolve(conninfo: &str, env: Env<'_>) -> Result<ConnectionSettings, SettingsError> {
    resolve_with(Flags::default(), conninfo, env)
}

#[track_caller]
fn check_error(conninfo: &str, env: Env<'_>, expect: &str) {
    let error = resolve(conninfo, env).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert!(!error.contains("canary"), "{error}");
}

#[test]
fn defaults() {
    let settings = resolve("", &[]).unwrap();
    let expect = ConnectionSettings {
        host: Host::Unix { dir: "/var/run/postgresql".into() },
        hostaddr: None,
        port: 5432,
        user: "os".into(),
        dbname: None,
        password: None,
        passfile: Some("/home/os/.pgpass".into()),
        application_name: Some("seawall".into()),
        options: None,
        connect_timeout: None,
        keepalives: Keepalives { enabled: true, idle: None, interval: None, count: None },
        tcp_user_timeout: None,
        sslmode: SslMode::Prefer,
        require_auth: None,
    };
    assert_eq!(settings, expect);
    assert_eq!(settings.endpoint().to_string(), "/var/run/postgresql/.s.PGSQL.5432");
}

#[test]
fn flags_over_conninfo_over_environment() {
    let env = [("PGHOST", "env"), ("PGPORT", "1"), ("PGUSER", "env"), ("PGAPPNAME", "env")];
    let flags = Flags { host: Some("flag".into()), port: Some(String::new()), ..Flags::default() };
    let settings = resolve_with(flags, "host=string port=2", &env).unwrap();
    assert_eq!(settings.host, Host::Tcp { host: "flag".into() });
    assert_eq!((settings.port, settings.user.as_str()), (2, "env"));
    assert_eq!(settings.application_name.as_deref(), Some("env"));
    // An empty value overrides, and then means the default.
    assert_eq!(resolve("port=''", &env).unwrap().port, 5432);
    let settings = resolve("fallback_application_name=x", &[]).unwrap();
    assert_eq!(settings.application_name.as_deref(), Some("x"));
    // What is overridden isn't refused.
    assert!(resolve("sslmode=disable", &[("PGSSLMODE", "require")]).is_ok());
}

#[test]
fn hosts() {
    let check = |conninfo: &str, host, endpoint: &str| {
        let settings = resolve(conninfo, &[]).unwrap();
        assert_eq!(settings.host, host);
        assert_eq!(settings.endpoint().to_string(), endpoint);
    };
    let tcp = |host: &str| Host::Tcp { host: host.into() };
    check("host=db port=1", tcp("db"), "db:1");
    check("postgres://[::1]", tcp("::1"), "[::1]:5432");
    check("hostaddr=127.0.0.1", tcp("127.0.0.1"), "127.0.0.1:5432");
    check("host=db hostaddr=::1", tcp("db"), "db:5432");
    check("host=/srv", Host::Unix { dir: "/srv".into() }, "/srv/.s.PGSQL.5432");
    let dir = PathBuf::from("/srv");
    check("postgres://%2Fsrv:7", Host::Unix { dir }, "/srv/.s.PGSQL.7");
    assert_eq!(resolve("host=db hostaddr=::1", &[]).unwrap().hostaddr, "::1".parse().ok());
}

#[test]
fn numbers() {
    let settings = resolve(
        "connect_timeout=10 keepalives=0 keepalives_idle=5 keepalives_interval=' 6 ' \
         keepalives_count=7 tcp_user_timeout=1500",
        &[],
    );
    let settings = settings.unwrap();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(settings.connect_timeout, seconds(10));
    let keepalives =
        Keepalives { enabled: false, idle: seconds(5), interval: seconds(6), count: Some(7) };
    assert_eq!(settings.keepalives, keepalives);
    assert_eq!(settings.tcp_user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(resolve("connect_timeout=-1", &[]).unwrap().connect_timeout, None);
    assert_eq!(resolve("connect_timeout=0", &[]).unwrap().connect_timeout, None);
    check_error("connect_timeout=canary", &[], "connect_timeout (in the connection string)");
    check_error("connect_timeout=''", &[], "an integer");
    check_error("keepalives=99999999999", &[], "an integer");
    for port in ["0", "65536", "-1", "x", "1.5"] {
        check_error(&format!("port={port}"), &[], "from 1 to 65535");
    }
    check_error("", &[("PGPORT", "x")], "port (from PGPORT)");
    check_error("hostaddr=canary", &[], "numeric");
}

#[test]
fn passwords_are_never_shown() {
    let settings = resolve("password=canary", &[("PGPASSWORD", "other")]).unwrap();
    assert_eq!(settings.password, Some(Secret::new("canary")));
    assert!(!format!("{settings:?}").contains("canary"));
    assert_eq!(settings.password_file(), None);
    let settings = resolve("", &[("PGPASSWORD", "canary")]).unwrap();
    assert_eq!(settings.password, Some(Secret::new("canary")));
    let flags = Flags { password: Some(Secret::new("asked")), ..Flags::default() };
    let settings = resolve_with(flags, "password=canary", &[]).unwrap();
    assert_eq!(settings.password, Some(Secret::new("asked")));
    // A password whose slash wasn't encoded is taken for a port and a database.
    check_error("postgres://user:canary/x@host/db", &[], "%2F");
    check_error("password=canary\0", &[], "NUL");
}

#[test]
fn the_password_file_is_the_last_place() {
    let mut settings = resolve("password='' host=db", &[("PGPASSFILE", "/x")]).unwrap();
    assert_eq!(settings.password_file(), Some(Path::new("/x")));
    let content = b"db:5432:replication:os:canary\n";
    let warning = settings.use_password_file(content, 0o644, REPLICATION_DATABASE);
    assert!(warning.unwrap().to_string().contains("0644"));
    assert_eq!(settings.password, None);
    assert_eq!(settings.use_password_file(content, 0o600, REPLICATION_DATABASE), None);
    assert_eq!(settings.password, Some(Secret::new("canary")));
    let other = b"*:*:*:*:other";
    assert_eq!(settings.use_password_file(other, 0o600, REPLICATION_DATABASE), None);
    assert_eq!(settings.password, Some(Secret::new("canary")));
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for mode in ["require", "verify-ca", "verify-full"] {
        check_error(&format!("sslmode={mode}"), &[], &format!("sslmode={mode} (in the"));
    }
    check_error("", &[("PGSSLMODE", "verify-full")], "sslmode=verify-full (from PGSSLMODE)");
    check_error("", &[("PGREQUIRESSL", "1")], "sslmode=require (from PGREQUIRESSL)");
    check_error("requiressl=1", &[], "requiressl=1");
    check_error("postgres://h?ssl=true", &[], "sslmode=require");
    check_error("", &[("PGSSLROOTCERT", "system")], "sslrootcert=system (from PGSSLROOTCERT)");
    check_error("sslnegotiation=direct", &[], "sslnegotiation=direct");
    check_error("sslcertmode=require", &[], "sslcertmode=require");
    check_error("gssencmode=require", &[], "gssencmode=require");
    check_error("channel_binding=require", &[], "channel_binding=require");
    check_error("target_session_attrs=read-write", &[], "target_session_attrs=read-write");
    check_error("", &[("PGTARGETSESSIONATTRS", "standby")], "(from PGTARGETSESSIONATTRS)");
    check_error("load_balance_hosts=random", &[], "load_balance_hosts=random");
    check_error("min_protocol_version=3.2", &[], "min_protocol_version=3.2");
    check_error("requirepeer=postgres", &[], "requirepeer");
    check_error("scram_client_key=canary", &[], "scram_client_key");
    check_error("service=x", &[], "service (in the");
    check_error("", &[("PGSERVICE", "x")], "service (from PGSERVICE)");
    check_error("host=a,b", &[], "more than one host");
    check_error("postgres://a,b", &[], "more than one host");
    check_error("port=1,2", &[], "more than one port");
    check_error("hostaddr=127.0.0.1,127.0.0.2", &[], "more than one hostaddr");
    check_error("host=@x", &[], "abstract Unix socket");
}

#[test]
fn what_changes_nothing_is_accepted() {
    // What pg_basebackup -R writes, and more.
    let text = "user=u channel_binding=prefer sslmode=prefer sslcompression=0 sslcertmode=allow \
                sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=prefer krbsrvname=postgres \
                gssdelegation=0 target_session_attrs=any load_balance_hosts=disable \
                sslnegotiation=postgres client_encoding=UTF8 replication=true gsslib=gssapi \
                max_protocol_version=latest min_protocol_version=3.0 sslrootcert=/x sslcert=/x \
                sslkey=/x sslcrl=/x sslcrldir=/x sslpassword=x sslkeylogfile=/x oauth_issuer=x \
                service='' requirepeer='' requiressl=0";
    assert_eq!(resolve(text, &[]).unwrap().user, "u");
    for mode in ["disable", "allow", "prefer"] {
        assert!(resolve(&format!("sslmode={mode}"), &[]).is_ok());
    }
}

#[test]
fn invalid_values() {
    check_error("sslmode=x", &[], "invalid value \"x\" for the connection option sslmode");
    check_error("sslmode=''", &[], "sslmode");
    check_error("gssencmode=x", &[], "gssencmode");
    check_error("target_session_attrs=''", &[], "target_session_attrs");
    check_error("max_protocol_version=4", &[], "max_protocol_version");
    check_error("require_auth=x", &[], "require_auth");
}

#[test]
fn there_must_be_a_user() {
    let inputs = Inputs::default();
    assert_eq!(ConnectionSettings::resolve(&inputs), Err(SettingsError::NoUser));
    let inputs = Inputs { os_user: Some("u".into()), ..inputs };
    let settings = ConnectionSettings::resolve(&inputs).unwrap();
    assert_eq!(settings.host, Host::Unix { dir: "/tmp".into() });
    assert_eq!(settings.passfile, None);
}

#[test]
fn require_auth_is_resolved() {
    let settings = resolve("", &[("PGREQUIREAUTH", "scram-sha-256")]).unwrap();
    assert!(!settings.require_auth.unwrap().allows(AuthMethod::Md5));
}
