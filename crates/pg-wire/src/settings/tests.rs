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
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
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

/// The only server that a string names.
#[track_caller]
fn only(conninfo: &str, env: Env<'_>) -> Server {
    let mut servers = resolve(conninfo, env).unwrap().servers;
    assert_eq!(servers.len(), 1);
    servers.remove(0)
}

#[test]
fn defaults() {
    let settings = resolve("", &[]).unwrap();
    let server = Server {
        host: Host::Unix { dir: "/var/run/postgresql".into() },
        named: false,
        hostaddr: None,
        port: 5432,
        password: None,
    };
    let default =
        |name: &str| ConfigFile::Default(Some(Path::new("/home/os/.postgresql").join(name)));
    let expect = ConnectionSettings {
        servers: vec![server],
        load_balance: false,
        target: TargetSession::Any,
        user: "os".into(),
        dbname: None,
        password: None,
        passfile: Some("/home/os/.pgpass".into()),
        application_name: Some("seawall".into()),
        options: None,
        connect_timeout: None,
        keepalives: Keepalives { enabled: true, idle: None, interval: None, count: None },
        tcp_user_timeout: None,
        tls: TlsSettings {
            mode: SslMode::Prefer,
            negotiation: SslNegotiation::Postgres,
            root_certs: RootCerts::File(default("root.crt")),
            crl: default("root.crl"),
            crl_dir: None,
            cert: default("postgresql.crt"),
            key: default("postgresql.key"),
            key_password: None,
            cert_mode: CertMode::Allow,
            sni: true,
            min_version: TlsVersion::V1_2,
            max_version: None,
        },
        channel_binding: ChannelBinding::Prefer,
        require_auth: None,
        require_peer: None,
        protocol: ProtocolRange { min: ProtocolVersion::V3_0, max: ProtocolVersion::V3_0 },
    };
    assert_eq!(settings, expect);
    assert_eq!(settings.endpoint().to_string(), "/var/run/postgresql/.s.PGSQL.5432");
}

#[test]
fn flags_over_conninfo_over_environment() {
    let env = [("PGHOST", "env"), ("PGPORT", "1"), ("PGUSER", "env"), ("PGAPPNAME", "env")];
    let flags = Flags { host: Some("flag".into()), port: Some(String::new()), ..Flags::default() };
    let settings = resolve_with(flags, "host=string port=2", &env).unwrap();
    assert_eq!(settings.servers[0].host, Host::Tcp { host: "flag".into() });
    assert_eq!((settings.servers[0].port, settings.user.as_str()), (2, "env"));
    assert_eq!(settings.application_name.as_deref(), Some("env"));
    // An empty value overrides, and then means the default.
    assert_eq!(only("port=''", &env).port, 5432);
    let settings = resolve("fallback_application_name=x", &[]).unwrap();
    assert_eq!(settings.application_name.as_deref(), Some("x"));
    // What is overridden isn't refused.
    assert!(resolve("gssencmode=disable", &[("PGGSSENCMODE", "require")]).is_ok());
}

#[test]
fn hosts() {
    let check = |conninfo: &str, host, endpoint: &str| {
        let server = only(conninfo, &[]);
        assert_eq!(server.host, host);
        assert_eq!(server.to_string(), endpoint);
    };
    let tcp = |host: &str| Host::Tcp { host: host.into() };
    check("host=db port=1", tcp("db"), "db:1");
    check("postgres://[::1]", tcp("::1"), "[::1]:5432");
    check("hostaddr=127.0.0.1", tcp("127.0.0.1"), "127.0.0.1:5432");
    check("host=db hostaddr=::1", tcp("db"), "db:5432");
    check("host=/srv", Host::Unix { dir: "/srv".into() }, "/srv/.s.PGSQL.5432");
    let dir = PathBuf::from("/srv");
    check("postgres://%2Fsrv:7", Host::Unix { dir }, "/srv/.s.PGSQL.7");
    let both = only("host=db hostaddr=::1", &[]);
    assert_eq!((both.hostaddr, both.name()), ("::1".parse().ok(), Some("db")));
    // An address alone is no name that a certificate could have.
    assert_eq!(only("hostaddr=::1", &[]).name(), None);
}

#[test]
fn several_hosts() {
    let check = |conninfo: &str, expect: &str| {
        let settings = resolve(conninfo, &[]).unwrap();
        assert_eq!(settings.endpoint().to_string(), expect, "{conninfo}");
    };
    check("host=a,b,c port=7", "a:7,b:7,c:7");
    check("host=a,b port=1,2", "a:1,b:2");
    check("postgres://a:1,[::1],b:3/db", "a:1,[::1]:5432,b:3");
    check("hostaddr=127.0.0.1,::1", "127.0.0.1:5432,[::1]:5432");
    check("host=a,/run,", "a:5432,/run/.s.PGSQL.5432,/var/run/postgresql/.s.PGSQL.5432");
    check("host=a,b hostaddr=,127.0.0.1 port=,2", "a:5432,b:2");
    check_error("host=a,b,c port=1,2", &[], "could not match 2 port numbers to 3 hosts");
    check_error("host=a port=1,2", &[], "could not match 2 port numbers to 1 hosts");
    check_error("host=a,b hostaddr=::1", &[], "could not match 2 host names to 1 hostaddr values");
    check_error("host=a,b hostaddr=::1,x", &[], "numeric");
    check_error(&format!("host={}", ",".repeat(1000)), &[], "at most 64");
}

#[test]
fn a_service_lies_between_the_string_and_the_environment() {
    let content = b"[mine]\nhost=of-service\nport=7\npassword=canary\nsslmode=canary\n";
    let inputs = |conninfo: &str, flags: Flags| {
        ConnectionSettings::resolve(&Inputs {
            conninfo: Some(conninfo.to_owned()),
            flags,
            env: &|name| match name {
                "PGHOST" => Some("of-env".into()),
                "PGUSER" => Some("env".into()),
                "PGSERVICE" => Some("mine".into()),
                _ => None,
            },
            home: Some("/home/os".into()),
            read_file: &|path| match path.to_str() {
                Some("/home/os/.pg_service.conf" | "/named") => Ok(content.to_vec()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
            ..Inputs::default()
        })
    };
    let settings = inputs("port=8 sslmode=require", Flags::default()).unwrap();
    assert_eq!(
        (settings.endpoint().to_string(), &settings.user[..]),
        ("of-service:8".into(), "env")
    );
    assert_eq!(settings.password, Some(Secret::new("canary")));
    let flags = Flags { host: Some("of-flag".into()), ..Flags::default() };
    let settings = inputs("sslmode=require servicefile=/named", flags).unwrap();
    assert_eq!(settings.endpoint().to_string(), "of-flag:7");
    let error = inputs("", Flags::default()).unwrap_err().to_string();
    assert!(error.contains("sslmode value: \"canary\" (in the service file)"), "{error}");
    let error = inputs("service=other", Flags::default()).unwrap_err().to_string();
    assert!(error.contains("definition of service \"other\" not found"), "{error}");
}

#[test]
fn tls_settings() {
    let tls = resolve(
        "sslmode=verify-full sslrootcert=/r sslcert=/c sslkey=/k sslpassword=canary sslcrldir=/d \
         sslcertmode=require sslsni=0 ssl_min_protocol_version=tlsv1.3 sslnegotiation=direct",
        &[("PGSSLCRL", "/l")],
    );
    let tls = tls.unwrap().tls;
    assert!(!format!("{tls:?}").contains("canary"));
    assert_eq!(tls.root_certs, RootCerts::File(ConfigFile::Named("/r".into())));
    assert_eq!(tls.crl.path(), Some(Path::new("/l")));
    assert_eq!((tls.cert.path(), tls.key.path()), (Some("/c".as_ref()), Some("/k".as_ref())));
    assert_eq!((tls.cert_mode, tls.sni), (CertMode::Require, false));
    assert_eq!(tls.min_version, TlsVersion::V1_3);
    // A directory of lists leaves the default one out.
    assert_eq!(resolve("sslcrldir=/d", &[]).unwrap().tls.crl, ConfigFile::Default(None));
    // The system's authorities vouch for everybody, so that the name must be looked at.
    let system = resolve("sslrootcert=system", &[]).unwrap().tls;
    assert_eq!((system.mode, system.root_certs), (SslMode::VerifyFull, RootCerts::System));
    check_error("sslrootcert=system sslmode=require", &[], "weak sslmode \"require\"");
    check_error("", &[("PGSSLROOTCERT", "system"), ("PGSSLMODE", "prefer")], "weak sslmode");
    check_error("sslnegotiation=direct", &[], "weak sslmode \"prefer\"");
    check_error("ssl_max_protocol_version=TLSv1.1", &[], "(in the connection string) is not");
    check_error("ssl_max_protocol_version=TLSv1.4", &[], "invalid ssl_max_protocol_version value");
    assert!(resolve("ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=''", &[]).is_ok());
    let range = "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2";
    check_error(range, &[], "invalid SSL protocol version range");
    check_error("sslkey=engine:key", &[], "engine");
    assert_eq!(resolve("requiressl=1", &[]).unwrap().tls.mode, SslMode::Require);
    assert_eq!(resolve("", &[("PGREQUIRESSL", "1")]).unwrap().tls.mode, SslMode::Require);
    assert_eq!(resolve("postgres://h?ssl=true", &[]).unwrap().tls.mode, SslMode::Require);
}

#[test]
fn protocol_versions() {
    let check = |conninfo: &str, min: u16, max: u16| {
        let range = resolve(conninfo, &[]).unwrap().protocol;
        assert_eq!((range.min.minor, range.max.minor), (min, max), "{conninfo}");
    };
    check("", 0, 0);
    check("max_protocol_version=latest", 0, 2);
    check("min_protocol_version=3.2", 2, 2);
    check("min_protocol_version=3.0 max_protocol_version=3.2", 0, 2);
    check_error("min_protocol_version=latest max_protocol_version=3.0", &[], "is greater than");
    check_error("max_protocol_version=4", &[], "invalid max_protocol_version value: \"4\"");
}

#[test]
fn which_server_will_do() {
    let check = |target: &str, standby, read_only, expect: Fit| {
        let settings = resolve(&format!("target_session_attrs={target}"), &[]).unwrap();
        assert_eq!(settings.target.fit(standby, read_only), expect, "{target}");
    };
    let (yes, no) = (Some(true), Some(false));
    check("any", None, None, Fit::Yes);
    check("primary", no, no, Fit::Yes);
    check("primary", yes, no, Fit::No("server is in hot standby mode"));
    check("standby", no, no, Fit::No("server is not in hot standby mode"));
    check("prefer-standby", yes, no, Fit::Yes);
    check("read-write", no, no, Fit::Yes);
    check("read-write", no, yes, Fit::No("session is read-only"));
    check("read-write", yes, no, Fit::No("session is read-only"));
    check("read-only", yes, no, Fit::Yes);
    check("read-only", no, no, Fit::No("session is not read-only"));
    check("read-only", None, no, Fit::AskReadOnly);
    check("read-write", no, None, Fit::AskReadOnly);
    let settings = resolve("target_session_attrs=standby", &[]).unwrap();
    assert!(matches!(settings.target.fit(None, None), Fit::No(_)));
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
    assert_eq!(resolve("connect_timeout=1", &[]).unwrap().connect_timeout, seconds(2));
    check_error("connect_timeout=canary", &[], "connect_timeout value (in the connection string)");
    check_error("connect_timeout=''", &[], "an integer");
    check_error("keepalives=99999999999", &[], "an integer");
    for port in ["0", "65536", "-1", "x", "1.5"] {
        check_error(&format!("port={port}"), &[], "from 1 to 65535");
    }
    check_error("", &[("PGPORT", "x")], "port value (from PGPORT)");
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
    assert_eq!(settings.servers[0].password, None);
    assert_eq!(settings.use_password_file(content, 0o600, REPLICATION_DATABASE), None);
    let password = |settings: &ConnectionSettings| {
        settings.password_for(&settings.servers[0]).map(|secret| secret.expose().to_vec())
    };
    assert_eq!(password(&settings), Some(b"canary".to_vec()));
    settings.password = Some(Secret::new("given"));
    assert_eq!(settings.use_password_file(b"*:*:*:*:other", 0o600, "x"), None);
    assert_eq!(password(&settings), Some(b"given".to_vec()));
    // Each server has its own.
    let mut several = resolve("host=a,b,c port=1", &[]).unwrap();
    let content = b"a:1:d:os:first\nb:1:d:os:second\nc:1:other:os:third\n";
    assert_eq!(several.use_password_file(content, 0o600, "d"), None);
    let found: Vec<_> = several.servers.iter().map(|it| it.password.clone()).collect();
    assert_eq!(found, [Some(Secret::new("first")), Some(Secret::new("second")), None]);
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    check_error("sslcompression=1", &[], "sslcompression=1 (in the connection string)");
    check_error("", &[("PGSSLCOMPRESSION", "1")], "sslcompression=1 (from PGSSLCOMPRESSION)");
    check_error("sslkeylogfile=/x", &[], "sslkeylogfile");
    check_error("gssencmode=require", &[], "gssencmode=require");
    check_error("", &[("PGGSSENCMODE", "require")], "(from PGGSSENCMODE) is not supported");
    check_error("scram_client_key=canary", &[], "scram_client_key");
    check_error("host=@x", &[], "abstract Unix socket");
    check_error("host=a,@x", &[], "abstract Unix socket");
}

#[test]
fn what_changes_nothing_is_accepted() {
    // What pg_basebackup -R writes, and more.
    let text = "user=u channel_binding=prefer sslmode=prefer sslcompression=0 sslcertmode=allow \
                sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=prefer krbsrvname=postgres \
                gssdelegation=0 target_session_attrs=any load_balance_hosts=disable \
                sslnegotiation=postgres client_encoding=UTF8 replication=true gsslib=gssapi \
                max_protocol_version=latest min_protocol_version=3.0 sslrootcert=/x sslcert=/x \
                sslkey=/x sslcrl=/x sslcrldir=/x sslpassword=x sslkeylogfile='' oauth_issuer=x \
                requirepeer='' requiressl=0 require_auth=''";
    assert_eq!(resolve(text, &[]).unwrap().user, "u");
}

#[test]
fn invalid_values() {
    check_error("sslmode=x", &[], "invalid sslmode value: \"x\"");
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
    assert_eq!(settings.servers[0].host, Host::Unix { dir: "/tmp".into() });
    assert_eq!(settings.passfile, None);
}

#[test]
fn require_auth_is_resolved() {
    let settings = resolve("", &[("PGREQUIREAUTH", "scram-sha-256")]).unwrap();
    assert!(!settings.require_auth.unwrap().allows(AuthMethod::Md5));
}
