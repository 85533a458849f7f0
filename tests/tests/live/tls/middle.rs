//! Somebody in between, or a server that isn't the one it claims to be: refused, with a reason, and
//! without the password having been any use.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certificates::certificates;
use super::scene::{PASSWORD, Scene, discreet};
use crate::common::{LIMIT, Must};
use crate::program::seawall;

/// One connection, encrypted or not.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// What a false server does with a connection; `None` when the client has gone.
type Script = dyn Fn(TcpStream) -> Option<()> + Send + Sync;

/// A false server; it ends with this value.
struct Fake {
    port: u16,
    connections: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    fn start(script: impl Fn(TcpStream) -> Option<()> + Send + Sync + 'static) -> Self {
        let script: Box<Script> = Box::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").must();
        let port = listener.local_addr().must().port();
        let (connections, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (Arc::clone(&connections), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                stream.set_read_timeout(Some(LIMIT)).must();
                // A client that goes away early is what is hoped for.
                let _ = script(stream);
            }
        });
        Self { port, connections, over, thread: Some(thread) }
    }

    /// seawall meets it with this string: it is refused for this reason, and soon.
    #[track_caller]
    fn is_refused(&self, more: &str, reason: &str) {
        let conninfo =
            format!("host=localhost hostaddr=127.0.0.1 port={} user=t_scram {more}", self.port);
        let began = Instant::now();
        let mut command = seawall(&["slot", "read", "s", "-d", &conninfo]);
        let ended = discreet(command.env("PGPASSWORD", PASSWORD));
        ended.says(1, &[reason]);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn exactly(wire: &mut dyn Wire, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    wire.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// A packet without a tag: SSLRequest, or what follows it.
fn packet(wire: &mut dyn Wire) -> Option<Vec<u8>> {
    let length = exactly(wire, 4)?;
    let len = u32::from_be_bytes(length.clone().try_into().ok()?);
    let rest = exactly(wire, usize::try_from(len).ok()?.checked_sub(4)?)?;
    Some([length, rest].concat())
}

/// A message, with its tag.
fn message(wire: &mut dyn Wire) -> Option<Vec<u8>> {
    let tag = exactly(wire, 1)?;
    Some([tag, packet(wire)?].concat())
}

fn send(wire: &mut dyn Wire, tag: u8, body: &[u8]) -> Option<()> {
    let len = u32::try_from(body.len() + 4).ok()?;
    let bytes = [&[tag], &len.to_be_bytes()[..], body].concat();
    wire.write_all(&bytes).ok()?;
    wire.flush().ok()
}

fn authentication(wire: &mut dyn Wire, code: u32, body: &[u8]) -> Option<()> {
    send(wire, b'R', &[&code.to_be_bytes()[..], body].concat())
}

/// Answers SSLRequest with this, and nothing more.
fn answering(answer: &'static [u8]) -> Fake {
    Fake::start(move |mut stream| {
        packet(&mut stream)?;
        stream.write_all(answer).ok()?;
        message(&mut stream).map(drop)
    })
}

/// Takes TLS with the good certificate, then does as the script says.
fn with_tls(script: impl Fn(&mut dyn Wire) -> Option<()> + Send + Sync + 'static) -> Fake {
    let config = tls_config();
    Fake::start(move |mut stream| {
        packet(&mut stream)?;
        stream.write_all(b"S").ok()?;
        let connection = ServerConnection::new(Arc::clone(&config)).ok()?;
        script(&mut StreamOwned::new(connection, stream))
    })
}

fn tls_config() -> Arc<ServerConfig> {
    let file = |name: &str| certificates().join(name);
    let certificate = CertificateDer::from_pem_file(file("good.crt")).must();
    let key = PrivateKeyDer::from_pem_file(file("good.key")).must();
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().must().with_no_client_auth();
    Arc::new(config.with_single_cert(vec![certificate], key).must())
}

fn verify_full() -> String {
    format!("sslmode=verify-full sslrootcert={}/ca.crt", certificates().display())
}

#[test]
fn what_comes_ahead_of_tls_is_refused() {
    let ok = b"SR\0\0\0\x08\0\0\0\0";
    for mode in ["sslmode=prefer".to_owned(), "sslmode=require".to_owned(), verify_full()] {
        let fake = answering(ok);
        fake.is_refused(&mode, "received unencrypted data after the server's SSL response");
        assert_eq!(fake.connections.load(Ordering::Relaxed), 1, "{mode}: it was tried again");
    }
}

#[test]
fn tls_is_not_done_without() {
    for mode in ["sslmode=require".to_owned(), verify_full()] {
        answering(b"N").is_refused(&mode, "does not support SSL, but SSL was required");
        answering(b"X").is_refused(&mode, "invalid response to SSL negotiation");
        let closes = || Fake::start(|mut stream| exactly(&mut stream, 1).map(drop));
        closes().is_refused(&mode, "");
        // Anybody may have written it: it isn't shown (CVE-2024-10977).
        let error = b"E\0\0\0\x1eSFATAL\0C28P01\0Mcall 555-0100\0\0";
        answering(error).is_refused(&mode, "error response during SSL exchange");
        let direct = format!("{mode} sslnegotiation=direct");
        closes().is_refused(&direct, "TLS handshake");
    }
    let fake = answering(b"E\0\0\0\x1eSFATAL\0C28P01\0Mcall 555-0100\0\0");
    let conninfo = format!("host=127.0.0.1 port={} user=u sslmode=prefer", fake.port);
    let ended = discreet(&mut seawall(&["slot", "read", "s", "-d", &conninfo]));
    assert!(!ended.stderr.contains("555"), "{ended:#?}");
    // A server that has TLS, and doesn't know the protocol.
    let config = tls_config();
    let other = Fake::start(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).ok()?;
        packet(&mut StreamOwned::new(connection, stream)).map(drop)
    });
    let direct = format!("{} sslnegotiation=direct", verify_full());
    other.is_refused(&direct, "without ALPN protocol negotiation extension");
}

#[test]
fn a_server_that_asks_for_nothing_is_not_believed() {
    let trusting = |wire: &mut dyn Wire| {
        packet(wire)?;
        authentication(wire, 0, b"")?;
        message(wire).map(drop)
    };
    let required = format!("{} channel_binding=require", verify_full());
    with_tls(trusting).is_refused(&required, "without channel binding");
    let required = format!("{} require_auth=scram-sha-256", verify_full());
    with_tls(trusting).is_refused(&required, "require_auth=scram-sha-256");
    let required = format!("{} sslcertmode=require", verify_full());
    with_tls(trusting).is_refused(&required, "did not request an SSL certificate");
}

/// A SCRAM server that offers these mechanisms, and asks for so many iterations; `last` is what it
/// says instead of its signature, or nothing but that all is well.
fn scram(
    mechanisms: &'static [u8],
    iterations: u32,
    last: Option<&'static [u8]>,
) -> impl Fn(&mut dyn Wire) -> Option<()> + Send + Sync {
    move |wire| {
        packet(wire)?;
        authentication(wire, 10, mechanisms)?;
        let first = message(wire)?;
        let first = String::from_utf8_lossy(&first).into_owned();
        let nonce = first.split_once("r=")?.1;
        let challenge = format!("r={nonce}more,s=c2FsdHNhbHRzYWx0,i={iterations}");
        authentication(wire, 11, challenge.as_bytes())?;
        message(wire)?;
        match last {
            Some(signature) => authentication(wire, 12, signature)?,
            None => authentication(wire, 0, b"")?,
        }
        message(wire).map(drop)
    }
}

const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
const ONLY_SCRAM: &[u8] = b"SCRAM-SHA-256\0\0";
const WRONG: &[u8] = b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn a_scram_server_proves_itself_and_asks_for_little() {
    let tls = verify_full();
    with_tls(scram(PLUS, 4096, Some(WRONG))).is_refused(&tls, "SCRAM exchange is wrong");
    with_tls(scram(PLUS, 4096, None))
        .is_refused(&tls, "without proving that it knows the password");
    with_tls(scram(PLUS, 10_000_000, None)).is_refused(&tls, "asks for 10000000 SCRAM iterations");
    with_tls(scram(ONLY_SCRAM, 4096, Some(WRONG)))
        .is_refused(&format!("{tls} channel_binding=require"), "did not offer");
    // In plain text, where nobody would offer to bind the channel.
    let disable = "sslmode=disable";
    in_the_clear(scram(PLUS, 4096, None)).is_refused(disable, "on a connection without TLS");
    in_the_clear(scram(ONLY_SCRAM, 4096, Some(WRONG))).is_refused(disable, "exchange is wrong");
    in_the_clear(scram(ONLY_SCRAM, 10_000_000, None)).is_refused(disable, "iterations");
}

fn in_the_clear(script: impl Fn(&mut dyn Wire) -> Option<()> + Send + Sync + 'static) -> Fake {
    Fake::start(move |mut stream| script(&mut stream))
}

/// In the middle with TLS on both sides, to the client with a certificate that it trusts: what is
/// said passes, but for what `change` does to a message of the server's.
fn relay(server: u16, change: fn(Vec<u8>) -> Vec<u8>) -> Fake {
    with_tls(move |client| {
        let mut server = TcpStream::connect(("127.0.0.1", server)).ok()?;
        server.set_read_timeout(Some(LIMIT)).ok()?;
        server.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).ok()?;
        if exactly(&mut server, 1)? != b"S" {
            return None;
        }
        let mut server = StreamOwned::new(careless_client(), server);
        server.write_all(&packet(client)?).ok()?;
        loop {
            let said = change(message(&mut server)?);
            client.write_all(&said).ok()?;
            client.flush().ok()?;
            // AuthenticationSASL and its continuation want an answer.
            if said.first() == Some(&b'R') && matches!(said.get(8), Some(10 | 11)) {
                server.write_all(&message(client)?).ok()?;
            }
        }
    })
}

/// A client that takes any certificate: what goes between this process and the server is no secret.
fn careless_client() -> rustls::ClientConnection {
    let file = certificates().join("ca.crt");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).must()).must();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()));
    let config = config.with_safe_default_protocol_versions().must();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().must()).must()
}

#[test]
fn a_man_in_the_middle_with_a_trusted_certificate_gets_nowhere() {
    let scene = Scene::new(18);
    // Another certificate than the one in the middle, so that the hashes differ.
    scene.show("sha512", &[]);
    let port = scene.server.port();
    let tls = verify_full();
    // Word for word: the proof is bound to the certificate in the middle.
    relay(port, |said| said).is_refused(&tls, "channel binding check failed");
    // Without the offer: the client says that it would have bound it, and the server knows better.
    let strip = |said: Vec<u8>| {
        let text = String::from_utf8_lossy(&said).into_owned();
        if !text.contains("SCRAM-SHA-256-PLUS") {
            return said;
        }
        let body = [&10_u32.to_be_bytes()[..], ONLY_SCRAM].concat();
        let len = u32::try_from(body.len() + 4).unwrap_or_default();
        [b"R", &len.to_be_bytes()[..], &body].concat()
    };
    relay(port, strip).is_refused(&tls, "channel binding negotiation error");
    relay(port, strip).is_refused(&format!("{tls} channel_binding=require"), "did not offer");
    // And straight to the server all is well.
    let (outcome, ended) = scene.seawall(
        &scene.conninfo("t_scram", &format!("{tls} channel_binding=require")),
        Path::new("/nonexistent"),
        super::scene::WITH_PASSWORD,
    );
    assert_eq!(outcome, super::scene::Outcome::Tls, "{ended:#?}");
}
