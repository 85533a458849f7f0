use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::message::{FrameHeader, Phase};
use crate::settings::{Flags, Inputs};

fn settings(conninfo: &str) -> ConnectionSettings {
    ConnectionSettings::resolve(&Inputs {
        flags: Flags::default(),
        conninfo: Some(conninfo.to_owned()),
        env: &|_| None,
        os_user: Some("u".into()),
        home: Some("/home/u".into()),
        ..Inputs::default()
    })
    .unwrap()
}

fn startup(conninfo: &str) -> Startup {
    Startup::physical_replication(&settings(conninfo)).unwrap()
}

fn ask(startup: &mut Startup, request: Authentication<'_>) -> Result<StartupStep, StartupError> {
    startup.handle(BackendMessage::Authentication(request))
}

#[track_caller]
fn sent(step: Result<StartupStep, StartupError>) -> Vec<u8> {
    match step {
        Ok(StartupStep::Send(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

/// From AuthenticationOk on, everything is as it should be.
#[track_caller]
fn finishes(startup: &mut Startup) -> ServerInfo {
    assert_eq!(ask(startup, Authentication::Ok), Ok(StartupStep::Continue));
    for (name, value) in [("server_version", "17.11 (Debian)"), ("in_hot_standby", "off")] {
        let message = BackendMessage::ParameterStatus { name: name.into(), value: value.into() };
        assert_eq!(startup.handle(message), Ok(StartupStep::Continue));
    }
    let key = BackendMessage::BackendKeyData { process_id: 42, secret_key: &[1, 2, 3, 4] };
    assert_eq!(startup.handle(key), Ok(StartupStep::Continue));
    match startup.handle(BackendMessage::ReadyForQuery { status: b'I' }) {
        Ok(StartupStep::Ready(info)) => info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_startup_packet() {
    let check = |conninfo: &str, expect: &str| {
        let startup = startup(conninfo);
        let text = String::from_utf8_lossy(&startup.initial_bytes()[8..]).replace('\0', " ");
        assert_eq!(text, expect);
    };
    check("", "user u database replication replication true  ");
    check(
        "dbname=postgres application_name=s1 options='-c x=1'",
        "user u database replication replication true application_name s1 options -c x=1  ",
    );
    let sql = Startup::new(&settings("dbname=d"), &[]).unwrap();
    assert_eq!(&sql.initial_bytes()[8..], b"user\0u\0database\0d\0\0");
    let sql = Startup::new(&settings(""), &[]).unwrap();
    assert_eq!(&sql.initial_bytes()[8..], b"user\0u\0database\0u\0\0");
    let long = settings(&format!("options={}", "x".repeat(10_000)));
    let error = Startup::physical_replication(&long).err().unwrap();
    assert!(matches!(error, StartupError::PacketTooLong { .. }));
}

#[test]
fn trust() {
    let info = finishes(&mut startup(""));
    assert_eq!(info.backend_pid, 42);
    assert_eq!(info.cancel_key, Some(Secret::new([1, 2, 3, 4])));
    assert_eq!(info.version, Some(ServerVersion::from_num(170_011)));
    assert_eq!(info.parameters["in_hot_standby"], "off");
}

#[test]
fn password_and_md5() {
    let mut plain = startup("password=pw");
    let bytes = sent(ask(&mut plain, Authentication::CleartextPassword));
    assert_eq!(bytes, b"p\0\0\0\x07pw\0");
    finishes(&mut plain);
    let mut md5 = startup("user=md5_user password=password");
    let salt = [0x2a, 0x3d, 0x8f, 0xe0];
    let bytes = sent(ask(&mut md5, Authentication::Md5Password { salt }));
    assert_eq!(&bytes[5..], b"md562af4dd09bbb41884907a838a3233294\0");
    finishes(&mut md5);
}

#[test]
fn no_password_says_where_it_looked() {
    let mechanisms = vec![SCRAM_SHA_256.into()];
    for request in [
        Authentication::CleartextPassword,
        Authentication::Md5Password { salt: [0; 4] },
        Authentication::Sasl { mechanisms },
    ] {
        let error = ask(&mut startup("host=db password=''"), request).unwrap_err().to_string();
        assert!(error.contains("PGPASSWORD"), "{error}");
        assert!(error.contains("/home/u/.pgpass for db:5432:replication:u"), "{error}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let check = |request, expect: &str| {
        let error = ask(&mut startup("password=canary"), request).unwrap_err().to_string();
        assert!(error.contains(expect) && !error.contains("canary"), "{error}");
    };
    check(Authentication::Unsupported { code: 2 }, "Kerberos");
    check(Authentication::Unsupported { code: 7 }, "GSSAPI");
    check(Authentication::Unsupported { code: 9 }, "SSPI");
    check(Authentication::Unsupported { code: 99 }, "unknown method 99");
    check(Authentication::Sasl { mechanisms: vec!["OAUTHBEARER".into()] }, "OAUTHBEARER");
    let mechanisms = vec![SCRAM_SHA_256_PLUS.into(), SCRAM_SHA_256.into()];
    check(Authentication::Sasl { mechanisms }, "without TLS");
}

#[test]
fn require_auth_is_kept() {
    let check = |require_auth: &str, request, accepted: bool| {
        let mut startup = startup(&format!("password=canary require_auth={require_auth}"));
        let result = ask(&mut startup, request);
        match result {
            Err(StartupError::NotAllowed { .. }) => assert!(!accepted, "{require_auth}"),
            Ok(_) => assert!(accepted, "{require_auth}"),
            other => panic!("{other:?}"),
        }
    };
    let scram = || Authentication::Sasl { mechanisms: vec![SCRAM_SHA_256.into()] };
    check("scram-sha-256", scram(), true);
    check("scram-sha-256", Authentication::CleartextPassword, false);
    check("scram-sha-256", Authentication::Md5Password { salt: [0; 4] }, false);
    check("scram-sha-256", Authentication::Ok, false);
    check("!password", Authentication::CleartextPassword, false);
    check("!password", scram(), true);
    check("!none", Authentication::Ok, false);
    check("none", Authentication::Ok, true);
    check("none", scram(), false);
}

#[test]
fn errors_and_notices_of_the_server() {
    let body = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0";
    let mut refused = startup("password=canary");
    sent(ask(&mut refused, Authentication::CleartextPassword));
    let error = refused.handle(BackendMessage::parse(b'E', body).unwrap()).unwrap_err();
    assert!(error.to_string().contains("28P01"), "{error}");
    let again = refused.handle(BackendMessage::ReadyForQuery { status: b'I' });
    assert_eq!(again, Err(StartupError::Over));
    let mut noted = startup("");
    for _ in 0..100 {
        let notice = BackendMessage::parse(b'N', body).unwrap();
        assert_eq!(noted.handle(notice), Ok(StartupStep::Continue));
    }
    finishes(&mut noted);
    assert_eq!(noted.take_notices().len(), MAX_NOTICES);
}

#[test]
fn what_comes_at_the_wrong_time_is_refused() {
    let ready = || BackendMessage::ReadyForQuery { status: b'I' };
    let unexpected = |message| Err(StartupError::Unexpected { message });
    assert_eq!(startup("").handle(ready()), unexpected("ReadyForQuery"));
    assert_eq!(startup("").handle(BackendMessage::CopyDone), unexpected("CopyDone"));
    let early = ask(&mut startup(""), Authentication::SaslFinal(b"v=x"));
    assert_eq!(early, unexpected("Authentication"));
    let mut authenticated = startup("");
    ask(&mut authenticated, Authentication::Ok).unwrap();
    assert_eq!(ask(&mut authenticated, Authentication::Ok), unexpected("Authentication"));
    // A second request would ask for the password in another way.
    let mut asked = startup("password=canary");
    sent(ask(&mut asked, Authentication::Md5Password { salt: [0; 4] }));
    assert_eq!(ask(&mut asked, Authentication::CleartextPassword), unexpected("Authentication"));
}

#[test]
fn parameters_are_bounded() {
    let mut many = startup("");
    ask(&mut many, Authentication::Ok).unwrap();
    let mut last = Ok(StartupStep::Continue);
    for number in 0..=MAX_PARAMETERS {
        assert_eq!(last, Ok(StartupStep::Continue));
        let name = number.to_string().into();
        last = many.handle(BackendMessage::ParameterStatus { name, value: "".into() });
    }
    assert_eq!(last, Err(StartupError::TooManyParameters));
    // The same name again and again costs nothing to keep, and is bounded all the same.
    let mut same = startup("");
    ask(&mut same, Authentication::Ok).unwrap();
    let value = "x".repeat(1000);
    let outcome = (0..100).try_for_each(|_| {
        let (name, value) = ("a".into(), value.as_str().into());
        same.handle(BackendMessage::ParameterStatus { name, value }).map(drop)
    });
    assert_eq!(outcome, Err(StartupError::TooManyParameters));
}

/// The server's side of SCRAM, for the tests.
struct ScramServer {
    password: &'static [u8],
    salt: &'static str,
    iterations: u32,
    nonce: &'static str,
}

fn mac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn xor(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| a[at] ^ b[at])
}

impl ScramServer {
    /// RFC 7677's example.
    const RFC: Self = Self {
        password: b"pencil",
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        iterations: 4096,
        nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    };

    fn salted_password(&self) -> [u8; 32] {
        let salt = STANDARD.decode(self.salt).unwrap();
        let mut block = mac(self.password, &[&salt[..], &[0, 0, 0, 1]].concat());
        let mut sum = block;
        for _ in 1..self.iterations {
            block = mac(self.password, &block);
            sum = xor(sum, block);
        }
        sum
    }

    fn challenge(&self, client_first_bare: &str) -> String {
        let client_nonce = client_first_bare.split_once("r=").unwrap().1;
        format!("r={client_nonce}{},s={},i={}", self.nonce, self.salt, self.iterations)
    }

    /// Checks the client's proof; gives the server's final message.
    fn verify(&self, client_first_bare: &str, client_final: &str) -> Option<String> {
        let (without_proof, proof) = client_final.split_once(",p=")?;
        let challenge = self.challenge(client_first_bare);
        let signed = format!("{client_first_bare},{challenge},{without_proof}");
        let salted = self.salted_password();
        let client_key = mac(&salted, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let expect = xor(client_key, mac(&stored_key, signed.as_bytes()));
        (STANDARD.decode(proof).ok()? == expect).then_some(())?;
        let signature = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
        Some(format!("v={}", STANDARD.encode(signature)))
    }
}

/// The client's first message without its header, from the SASLInitialResponse.
#[track_caller]
fn client_first_bare(bytes: &[u8]) -> String {
    let (header, body) = FrameHeader::split(bytes, Phase::Startup).unwrap().unwrap();
    assert_eq!(header.tag, b'p');
    let rest = body.strip_prefix(b"SCRAM-SHA-256\0").unwrap();
    String::from_utf8(rest[4..].to_vec()).unwrap().strip_prefix("n,,").unwrap().to_owned()
}

/// Runs an exchange up to the client's proof; the machine, the client's first and final message.
fn run_scram(server: &ScramServer, conninfo: &str) -> (Startup, String, String) {
    let mut startup = startup(conninfo);
    let mechanisms = vec![SCRAM_SHA_256.into()];
    let first = sent(ask(&mut startup, Authentication::Sasl { mechanisms }));
    let first = client_first_bare(&first);
    let challenge = server.challenge(&first);
    let proof = sent(ask(&mut startup, Authentication::SaslContinue(challenge.as_bytes())));
    (startup, first, String::from_utf8(proof[5..].to_vec()).unwrap())
}

#[test]
fn the_role_played_server_is_rfc_7677s() {
    let first = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let expect = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(ScramServer::RFC.verify(first, last).as_deref(), Some(expect));
}

#[test]
fn scram_with_a_server_that_knows_the_password() {
    let (mut startup, first, last) = run_scram(&ScramServer::RFC, "password=pencil");
    assert!(last.starts_with("c=biws,"), "{last}");
    let outcome = ScramServer::RFC.verify(&first, &last).unwrap();
    let step = ask(&mut startup, Authentication::SaslFinal(outcome.as_bytes()));
    assert_eq!(step, Ok(StartupStep::Continue));
    finishes(&mut startup);
}

#[test]
fn a_wrong_password_is_not_proved() {
    let (_, first, last) = run_scram(&ScramServer::RFC, "password=canary");
    assert_eq!(ScramServer::RFC.verify(&first, &last), None);
}

#[test]
fn a_server_that_does_not_prove_itself_is_refused() {
    let server = ScramServer::RFC;
    let (mut skipped, ..) = run_scram(&server, "password=pencil");
    assert_eq!(ask(&mut skipped, Authentication::Ok), Err(StartupError::ScramUnfinished));
    let mut early = startup("password=pencil");
    let mechanisms = vec![SCRAM_SHA_256.into()];
    sent(ask(&mut early, Authentication::Sasl { mechanisms }));
    assert_eq!(ask(&mut early, Authentication::Ok), Err(StartupError::ScramUnfinished));
    for outcome in ["v=AAAA", "v=", "", "e=invalid-proof", "v=\u{1b}"] {
        let (mut startup, ..) = run_scram(&server, "password=pencil");
        let step = ask(&mut startup, Authentication::SaslFinal(outcome.as_bytes()));
        assert!(matches!(step, Err(StartupError::Scram { .. })), "{outcome}: {step:?}");
    }
}

#[test]
fn scram_challenges_that_are_none() {
    let check = |challenge: &dyn Fn(&str) -> String, expect: &str| {
        let mut startup = startup("password=canary");
        let mechanisms = vec![SCRAM_SHA_256.into()];
        let first = sent(ask(&mut startup, Authentication::Sasl { mechanisms }));
        let nonce = client_first_bare(&first).split_once("r=").unwrap().1.to_owned();
        let challenge = challenge(&nonce);
        let error = ask(&mut startup, Authentication::SaslContinue(challenge.as_bytes()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expect) && !error.contains("canary"), "{error}");
    };
    check(&|nonce| format!("r={nonce}x,s=AAAA,i=100001"), "100001 SCRAM iterations");
    check(&|nonce| format!("r={nonce}x,s=AAAA,i=99999999999999"), "99999999999999 SCRAM");
    check(&|nonce| format!("r={nonce}x,s=AAAA,i=0"), "no iterations");
    check(&|_| "r=other,s=AAAA,i=1".to_owned(), "nonce");
    check(&|nonce| format!("r={nonce}x,s=A,i=1"), "SCRAM exchange is wrong");
    check(&|_| String::new(), "SCRAM exchange is wrong");
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic(
        messages in prop::collection::vec(
            (prop::sample::select(b"RKSZENvTD".to_vec()), 0_u8..13,
                prop::collection::vec(any::<u8>(), 0..40)),
            0..12,
        ),
    ) {
        let mut startup = startup("password=canary");
        for (tag, code, rest) in messages {
            let body = if tag == b'R' { [&[0, 0, 0, code], &rest[..]].concat() } else { rest };
            if let Ok(message) = BackendMessage::parse(tag, &body) {
                let _ = startup.handle(message);
            }
        }
    }
}

/// On TLS, with a certificate whose hash is this.
fn on_tls(conninfo: &str, end_point: Option<&[u8]>) -> Startup {
    let settings = settings(conninfo);
    let channel = Channel::Tls {
        end_point: end_point.map(<[u8]>::to_vec),
        certificate_requested: false,
        certificate_sent: false,
    };
    let plain = Startup::physical_replication(&settings).unwrap();
    plain.on(&settings, &settings.servers[0], channel)
}

fn offer(plus: bool) -> Authentication<'static> {
    let mut mechanisms = vec![SCRAM_SHA_256.into()];
    if plus {
        mechanisms.insert(0, SCRAM_SHA_256_PLUS.into());
    }
    Authentication::Sasl { mechanisms }
}

#[test]
fn scram_says_how_it_is_bound() {
    let check = |conninfo: &str, plus: bool, expect: &str| {
        let mut startup = on_tls(&format!("password=x {conninfo}"), Some(b"hash"));
        let text = String::from_utf8(sent(ask(&mut startup, offer(plus)))[5..].to_vec()).unwrap();
        assert!(text.replace('\0', " ").starts_with(expect), "{conninfo}: {text}");
    };
    check("", true, "SCRAM-SHA-256-PLUS ");
    check("channel_binding=require", true, "SCRAM-SHA-256-PLUS ");
    check("channel_binding=disable", true, "SCRAM-SHA-256 ");
    check("", false, "SCRAM-SHA-256 ");
    let header = |conninfo: &str, plus: bool| {
        let mut startup = on_tls(&format!("password=x {conninfo}"), Some(b"hash"));
        let bytes = sent(ask(&mut startup, offer(plus)));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let end = text.find(",,").unwrap();
        text[..end]
            .rsplit('\0')
            .next()
            .unwrap()
            .trim_start_matches(|c: char| !c.is_alphabetic())
            .to_owned()
    };
    assert_eq!(header("", true), "p=tls-server-end-point");
    assert_eq!(header("", false), "y");
    assert_eq!(header("channel_binding=disable", true), "n");
}

#[test]
fn channel_binding_that_is_required_is_not_done_without() {
    let check = |startup: &mut Startup, request, expect: &str| {
        let error = ask(startup, request).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let bound = "password=canary channel_binding=require";
    let tls = || on_tls(bound, Some(b"hash"));
    check(&mut tls(), Authentication::Ok, "without channel binding");
    check(&mut tls(), Authentication::CleartextPassword, "channel binding is required");
    check(&mut tls(), Authentication::Md5Password { salt: [0; 4] }, "channel binding is required");
    check(&mut tls(), offer(false), "did not offer");
    check(&mut startup(bound), offer(false), "SSL is not in use");
    check(&mut startup(bound), offer(true), "SSL is not in use");
    check(&mut startup(bound), Authentication::Ok, "without channel binding");
    // A certificate whose signature names no hash: libpq gives up, too.
    check(&mut on_tls(bound, None), offer(true), "names no hash");
    check(&mut on_tls("password=canary", None), offer(true), "names no hash");
    sent(ask(&mut on_tls("password=x channel_binding=disable", None), offer(true)));
}

#[test]
fn a_client_certificate_that_is_required_must_have_been_asked_for() {
    let check = |requested, sent, expect| {
        let settings = settings("sslcertmode=require");
        let channel = Channel::Tls {
            end_point: None,
            certificate_requested: requested,
            certificate_sent: sent,
        };
        let plain = Startup::physical_replication(&settings).unwrap();
        let mut startup = plain.on(&settings, &settings.servers[0], channel);
        assert_eq!(ask(&mut startup, Authentication::Ok), expect);
    };
    check(true, true, Ok(StartupStep::Continue));
    check(true, false, Err(StartupError::CertificateNotSent));
    check(false, false, Err(StartupError::CertificateNotRequested));
    let result = ask(&mut startup("sslcertmode=require"), Authentication::Ok);
    assert_eq!(result, Err(StartupError::CertificateNotRequested));
}

#[test]
fn a_server_of_an_older_protocol() {
    let negotiated = |conninfo: &str, newest: u32| {
        let mut startup = startup(conninfo);
        let body = [newest.to_be_bytes(), [0; 4]].concat();
        startup.handle(BackendMessage::parse(b'v', &body).unwrap()).map_err(|e| e.to_string())
    };
    let code = |minor: u32| 3 << 16 | minor;
    let ok = Ok(StartupStep::Continue);
    assert_eq!(negotiated("max_protocol_version=3.2", code(0)), ok);
    assert_eq!(negotiated("max_protocol_version=3.2", 0), ok);
    let error = negotiated("min_protocol_version=3.2", code(0)).unwrap_err();
    assert!(error.contains("server only supports protocol version 3.0"), "{error}");
    for (conninfo, newest) in [
        ("", code(0)),
        ("max_protocol_version=3.2", code(2)),
        ("max_protocol_version=3.2", 4 << 16),
        ("max_protocol_version=3.2", 2 << 16),
    ] {
        assert!(negotiated(conninfo, newest).is_err(), "{conninfo} {newest}");
    }
}
