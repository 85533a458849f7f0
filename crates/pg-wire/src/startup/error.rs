//! What can go wrong before a connection is ready.

use std::borrow::Cow;

use super::{MAX_PARAMETER_BYTES, MAX_PARAMETERS, MAX_STARTUP_PACKET};
use crate::message::ServerMessage;
use crate::message::frontend::EncodeError;
use crate::pgpass::PassKey;
use crate::settings::{ConnectionSettings, Server};

use super::scram::MAX_SCRAM_ITERATIONS;

/// Most mechanisms, and most characters of each, that an error names.
const SHOWN_MECHANISMS: usize = 8;
const SHOWN_MECHANISM_CHARS: usize = 40;

/// A connection that can't be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// The server refuses, for this reason.
    #[error("the server refuses the connection: {0}")]
    Server(Box<ServerMessage>),
    /// A setting can't be sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The settings are longer than a server reads.
    #[error(
        "user, application name and options make a startup packet of {len} bytes, and servers take \
         at most {MAX_STARTUP_PACKET}: shorten them"
    )]
    PacketTooLong {
        /// The packet's length in bytes.
        len: usize,
    },
    /// A password is wanted and there is none.
    #[error("the server asks for a password and there is none: looked {places}")]
    NoPassword {
        /// Where it was looked for.
        places: String,
    },
    /// `require_auth` doesn't accept what the server asks for.
    #[error("the server asks for {asked_for}, which require_auth={required} does not accept")]
    NotAllowed {
        /// What the server asks for.
        asked_for: &'static str,
        /// What is accepted.
        required: String,
    },
    /// The server wants what isn't implemented.
    #[error(
        "the server asks for authentication by {method}, which is not supported: let pg_hba.conf \
         ask this user for scram-sha-256"
    )]
    UnsupportedAuthentication {
        /// What it wants.
        method: String,
    },
    /// Channel binding was offered where it can't be.
    #[error(
        "the server offers SCRAM-SHA-256-PLUS on a connection without TLS: something between may \
         have taken the TLS off, so the password is not used"
    )]
    PlusWithoutTls,
    /// The SCRAM exchange failed on the server's side.
    #[error("the server's SCRAM exchange is wrong: {what}")]
    Scram {
        /// What is wrong.
        what: String,
    },
    /// The password would have to be hashed too often.
    #[error(
        "the server asks for {iterations} SCRAM iterations, and at most {MAX_SCRAM_ITERATIONS} are \
         done: set the password again with a lower scram_iterations"
    )]
    TooManyIterations {
        /// How often, as the server wrote it.
        iterations: String,
    },
    /// The server can't be asked for TLS, or what came isn't from it.
    #[error(
        "received unencrypted data after the server's SSL response: something between may have \
         put it there"
    )]
    PlaintextBeforeTls,
    /// An error that anybody may have written.
    #[error(
        "the server sent an error response during SSL exchange (it can't be trusted, and isn't \
         shown): see the server's log"
    )]
    ErrorBeforeTls,
    /// Neither yes nor no.
    #[error("received invalid response to SSL negotiation: this is not a PostgreSQL server")]
    NoSslAnswer,
    /// TLS is a must, and the server has none.
    #[error("the server does not support SSL, but SSL was required")]
    NoTls,
    /// TLS was begun at once, and the other side didn't say that it speaks the protocol.
    #[error("direct SSL connection was established without ALPN protocol negotiation extension")]
    NoAlpn,
    /// `channel_binding=require`, and the server does without.
    #[error("channel binding is required, but {0}")]
    NotBound(&'static str),
    /// SCRAM can't be bound to this certificate.
    #[error(
        "SCRAM can't be bound to the server's certificate, whose signature names no hash; \
         channel_binding=disable does without"
    )]
    NoEndPoint,
    /// `sslcertmode=require`, and the server didn't ask.
    #[error("the server did not request an SSL certificate, and sslcertmode is \"require\"")]
    CertificateNotRequested,
    /// `sslcertmode=require`, and the server let us in without.
    #[error(
        "the server accepted the connection without a valid SSL certificate, and sslcertmode is \
         \"require\""
    )]
    CertificateNotSent,
    /// The server's newest protocol is too old, or no answer to what was asked.
    #[error("{0}")]
    Protocol(String),
    /// The server skipped the proof that it knows the password's verifier.
    #[error(
        "the server ended SCRAM without proving that it knows the password: it may not be the \
         server it claims to be"
    )]
    ScramUnfinished,
    /// The server reports settings without end.
    #[error(
        "the server reports more than {MAX_PARAMETERS} settings or {MAX_PARAMETER_BYTES} bytes"
    )]
    TooManyParameters,
    /// A message that doesn't belong here.
    #[error("the server sent an unexpected {message} message while the connection starts")]
    Unexpected {
        /// The message's name.
        message: &'static str,
    },
    /// The start is over already.
    #[error("the connection's start is over")]
    Over,
}

/// Where a password was looked for, in words.
pub(super) fn password_places(
    settings: &ConnectionSettings,
    server: Option<&Server>,
    database: &str,
) -> String {
    let Some(server) = server else { return "nowhere".to_owned() };
    let PassKey { host, port, database, user } = settings.pass_key(server, database);
    let file = settings.passfile.as_ref().map_or_else(
        || "and there is no password file".to_owned(),
        |path| format!("and in {} for {host}:{port}:{database}:{user}", path.display()),
    );
    format!("in the connection string, in PGPASSWORD, {file}")
}

/// What an AuthenticationRequest of this code asks for.
pub(super) fn method_name(code: u32) -> String {
    match code {
        2 => "Kerberos V5".to_owned(),
        6 => "SCM credentials".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("the unknown method {other}"),
    }
}

/// The SASL mechanisms that a server offers, in words.
pub(super) fn mechanism_names(mechanisms: &[Cow<'_, str>]) -> String {
    let shown = |name: &Cow<'_, str>| -> String {
        name.chars().filter(|c| !c.is_control()).take(SHOWN_MECHANISM_CHARS).collect()
    };
    let names: Vec<String> = mechanisms.iter().take(SHOWN_MECHANISMS).map(shown).collect();
    format!("SASL ({})", names.join(", "))
}
