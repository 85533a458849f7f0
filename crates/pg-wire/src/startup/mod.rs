//! The start of a connection: the startup packet, authentication, the server's parameters, until
//! it is ready for a command.
//!
//! The machine gives bytes to send and takes messages. It answers trust, password, md5,
//! SCRAM-SHA-256 and, on TLS, SCRAM-SHA-256-PLUS; anything else is refused by name. A server that
//! asked for SCRAM must finish it: its signature is checked before anything it says is believed.
//! No error shows the password. What comes before, TLS or none, is [`Attempts`]' and
//! [`SslAnswer`]'s.
//!
//! SCRAM is postgres-protocol's, which draws its nonce itself; that is the one value here that
//! doesn't come from the caller.

mod encryption;
mod error;
mod scram;

#[cfg(test)]
mod tests;

pub use encryption::{ALPN, Attempts, Encryption, SSL_REQUEST, SslAnswer};
pub use error::StartupError;
pub use scram::MAX_SCRAM_ITERATIONS;

use std::collections::BTreeMap;

use pg_types::ServerVersion;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS,
};

use crate::Secret;
use crate::message::{Authentication, BackendMessage, ServerMessage, frontend};
use crate::settings::{
    AuthMethod, CertMode, ChannelBinding, ConnectionSettings, ProtocolRange, REPLICATION_DATABASE,
    RequireAuth, Server,
};
use scram::Scram;

/// Longest startup packet that a server takes (`MAX_STARTUP_PACKET_LENGTH`, `libpq/pqcomm.h`).
const MAX_STARTUP_PACKET: usize = 10_000;

/// Most parameters that a server may report: real ones report 13 to 15.
pub const MAX_PARAMETERS: usize = 256;

/// Most bytes of all parameters together; a search_path may be long.
pub const MAX_PARAMETER_BYTES: usize = 64 << 10;

/// Most notices kept for the caller; later ones are dropped.
const MAX_NOTICES: usize = 16;

/// What a server said of itself at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The settings that it reports, such as `server_version`.
    pub parameters: BTreeMap<String, String>,
    /// The process that serves the connection; 0 if the server didn't say.
    pub backend_pid: i32,
    /// What a cancel request must show, if the server said so.
    pub cancel_key: Option<Secret>,
    /// Its version, where `server_version` can be read.
    pub version: Option<ServerVersion>,
}

impl ServerInfo {
    /// Whether a setting that is on or off is on; `None` if the server didn't report it.
    #[must_use]
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.parameters.get(name).map(|value| value == "on")
    }
}

/// What the startup packet travels on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Plain text.
    Plain,
    /// TLS.
    Tls {
        /// The hash of the server's certificate for `tls-server-end-point`; `None` where the
        /// certificate's signature names no hash.
        end_point: Option<Vec<u8>>,
        /// Whether the server asked for a client certificate.
        certificate_requested: bool,
        /// Whether it got one.
        certificate_sent: bool,
    },
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartupStep {
    /// Wait for the next message.
    Continue,
    /// Send these bytes, then wait for the next message.
    Send(Vec<u8>),
    /// The server is ready for a command.
    Ready(ServerInfo),
}

enum State {
    /// Nothing was asked for yet.
    Start,
    /// A password, or its hash, was sent.
    PasswordSent,
    /// The client's first SCRAM message was sent.
    ScramFirst(Scram),
    /// The client's proof was sent; the server's is to come.
    ScramFinal(Scram),
    /// The server has proved that it knows the password's verifier.
    ScramDone,
    /// The server has enough.
    Authenticated,
    /// Ready, or failed.
    Over,
}

/// The start of one connection. One that was made by [`new`](Self::new) is for the first server
/// and plain text; [`on`](Self::on) makes one for another attempt.
pub struct Startup {
    packet: Vec<u8>,
    database: String,
    user: String,
    password: Option<Secret>,
    require_auth: Option<RequireAuth>,
    channel_binding: ChannelBinding,
    cert_mode: CertMode,
    protocol: ProtocolRange,
    channel: Channel,
    /// Whether SCRAM was bound to the channel.
    bound: bool,
    /// Where a password was looked for, for the error that there is none.
    places: String,
    state: State,
    info: ServerInfo,
    parameter_bytes: usize,
    notices: Vec<ServerMessage>,
}

impl Startup {
    /// The start of a physical replication connection.
    ///
    /// # Errors
    /// As [`Startup::new`].
    pub fn physical_replication(settings: &ConnectionSettings) -> Result<Self, StartupError> {
        Self::new(settings, &[("replication", "true")])
    }

    /// The start of a connection with these parameters beside those of the settings. With
    /// `replication=true` the database is [`REPLICATION_DATABASE`], whatever the settings say.
    ///
    /// # Errors
    /// Settings that no startup packet can carry.
    pub fn new(
        settings: &ConnectionSettings,
        extra: &[(&str, &str)],
    ) -> Result<Self, StartupError> {
        let physical = extra.contains(&("replication", "true"));
        let database =
            if physical { Some(REPLICATION_DATABASE) } else { settings.dbname.as_deref() };
        let database = database.unwrap_or(&settings.user);
        let optional = [
            ("application_name", settings.application_name.as_deref()),
            ("options", settings.options.as_deref()),
        ];
        let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let parameters = [("user", settings.user.as_str()), ("database", database)];
        let parameters = parameters.into_iter().chain(extra.iter().copied()).chain(optional);
        let packet = frontend::startup(settings.protocol.max, parameters)?;
        if packet.len() > MAX_STARTUP_PACKET {
            return Err(StartupError::PacketTooLong { len: packet.len() });
        }
        Ok(Self::begin(packet, database, settings, settings.servers.first(), Channel::Plain))
    }

    /// The same start for one of the settings' servers, on what connects to it.
    #[must_use]
    pub fn on(&self, settings: &ConnectionSettings, server: &Server, channel: Channel) -> Self {
        Self::begin(self.packet.clone(), &self.database, settings, Some(server), channel)
    }

    fn begin(
        packet: Vec<u8>,
        database: &str,
        settings: &ConnectionSettings,
        server: Option<&Server>,
        channel: Channel,
    ) -> Self {
        let password = server.and_then(|server| settings.password_for(server));
        Self {
            packet,
            database: database.to_owned(),
            user: settings.user.clone(),
            password: password.filter(|password| !password.is_empty()).cloned(),
            require_auth: settings.require_auth.clone(),
            channel_binding: settings.channel_binding,
            cert_mode: settings.tls.cert_mode,
            protocol: settings.protocol,
            channel,
            bound: false,
            places: error::password_places(settings, server, database),
            state: State::Start,
            info: ServerInfo::default(),
            parameter_bytes: 0,
            notices: Vec::new(),
        }
    }

    /// The database that it is for, by which a password file knows it.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What to send first.
    #[must_use]
    pub fn initial_bytes(&self) -> &[u8] {
        &self.packet
    }

    /// Takes the next message and says what to do.
    ///
    /// # Errors
    /// The server refuses, asks for what can't be given, or doesn't keep to the protocol. The
    /// connection is over then.
    pub fn handle(&mut self, message: BackendMessage<'_>) -> Result<StartupStep, StartupError> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (state, step) = self.step(state, message)?;
        self.state = state;
        Ok(step)
    }

    /// The notices that have come so far.
    pub fn take_notices(&mut self) -> Vec<ServerMessage> {
        std::mem::take(&mut self.notices)
    }

    fn step(
        &mut self,
        state: State,
        message: BackendMessage<'_>,
    ) -> Result<(State, StartupStep), StartupError> {
        match (state, message) {
            (State::Over, _) => Err(StartupError::Over),
            (_, BackendMessage::ErrorResponse(message)) => Err(StartupError::Server(message)),
            (state, BackendMessage::NoticeResponse(notice)) => {
                if self.notices.len() < MAX_NOTICES {
                    self.notices.push(*notice);
                }
                Ok((state, StartupStep::Continue))
            }
            (
                state @ State::Start,
                BackendMessage::NegotiateProtocolVersion { newest_minor, .. },
            ) => {
                self.negotiated(newest_minor)?;
                Ok((state, StartupStep::Continue))
            }
            (State::Authenticated, message) => self.parameters(message),
            (state, BackendMessage::Authentication(request)) => self.authenticate(state, request),
            (_, message) => Err(StartupError::Unexpected { message: message.name() }),
        }
    }

    /// The server speaks nothing newer than this, and options weren't asked for.
    fn negotiated(&self, newest: u32) -> Result<(), StartupError> {
        // The whole version, or its second half alone as the protocol's description has it.
        let minor = newest & 0xffff;
        let (min, max) = (self.protocol.min.minor, self.protocol.max.minor);
        if newest > 0xffff && newest >> 16 != 3 || minor >= u32::from(max) {
            return Err(StartupError::Protocol(
                "received invalid protocol negotiation message: the server was asked for no newer \
                 version"
                    .to_owned(),
            ));
        }
        if minor < u32::from(min) {
            return Err(StartupError::Protocol(format!(
                "server only supports protocol version 3.{minor}, but \"min_protocol_version\" \
                 was set to 3.{min}"
            )));
        }
        Ok(())
    }

    /// Between AuthenticationOk and ReadyForQuery.
    fn parameters(
        &mut self,
        message: BackendMessage<'_>,
    ) -> Result<(State, StartupStep), StartupError> {
        match message {
            BackendMessage::ParameterStatus { name, value } => {
                let bytes = name.len().saturating_add(value.len());
                self.parameter_bytes = self.parameter_bytes.saturating_add(bytes);
                let parameters = &mut self.info.parameters;
                if parameters.len() >= MAX_PARAMETERS || self.parameter_bytes > MAX_PARAMETER_BYTES
                {
                    return Err(StartupError::TooManyParameters);
                }
                if name == "server_version" {
                    self.info.version = ServerVersion::parse(&value);
                }
                parameters.insert(name.into_owned(), value.into_owned());
            }
            BackendMessage::BackendKeyData { process_id, secret_key } => {
                self.info.backend_pid = process_id;
                self.info.cancel_key = Some(Secret::new(secret_key));
            }
            BackendMessage::ReadyForQuery { .. } => {
                let info = std::mem::take(&mut self.info);
                return Ok((State::Over, StartupStep::Ready(info)));
            }
            message => return Err(StartupError::Unexpected { message: message.name() }),
        }
        Ok((State::Authenticated, StartupStep::Continue))
    }

    fn authenticate(
        &mut self,
        state: State,
        request: Authentication<'_>,
    ) -> Result<(State, StartupStep), StartupError> {
        match (state, request) {
            (State::Start, Authentication::Ok) => {
                self.allow(AuthMethod::None, "nothing (trust, peer, or a certificate)")?;
                self.let_in()
            }
            (State::PasswordSent | State::ScramDone, Authentication::Ok) => self.let_in(),
            (State::ScramFirst(_) | State::ScramFinal(_), Authentication::Ok) => {
                Err(StartupError::ScramUnfinished)
            }
            (State::Start, Authentication::CleartextPassword) => {
                self.allow(AuthMethod::Password, "the password itself")?;
                self.unbound_will_do()?;
                let bytes = frontend::password(self.password()?)?;
                Ok((State::PasswordSent, StartupStep::Send(bytes)))
            }
            (State::Start, Authentication::Md5Password { salt }) => {
                self.allow(AuthMethod::Md5, "the password's md5 hash")?;
                self.unbound_will_do()?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?, salt);
                let bytes = frontend::password(hash.as_bytes())?;
                Ok((State::PasswordSent, StartupStep::Send(bytes)))
            }
            (State::Start, Authentication::Sasl { mechanisms }) => self.start_scram(&mechanisms),
            (State::ScramFirst(mut scram), Authentication::SaslContinue(challenge)) => {
                let bytes = frontend::sasl_response(scram.answer(challenge)?)?;
                Ok((State::ScramFinal(scram), StartupStep::Send(bytes)))
            }
            (State::ScramFinal(scram), Authentication::SaslFinal(outcome)) => {
                scram.finish(outcome)?;
                Ok((State::ScramDone, StartupStep::Continue))
            }
            (State::Start, Authentication::Unsupported { code }) => {
                Err(StartupError::UnsupportedAuthentication { method: error::method_name(code) })
            }
            _ => Err(StartupError::Unexpected { message: "Authentication" }),
        }
    }

    /// AuthenticationOk, which is believed only if nothing is missing that was to come before.
    fn let_in(&self) -> Result<(State, StartupStep), StartupError> {
        if self.channel_binding == ChannelBinding::Require && !self.bound {
            return Err(StartupError::NotBound(
                "the server authenticated the client without channel binding",
            ));
        }
        if self.cert_mode == CertMode::Require {
            let (requested, sent) = match self.channel {
                Channel::Plain => (false, false),
                Channel::Tls { certificate_requested, certificate_sent, .. } => {
                    (certificate_requested, certificate_sent)
                }
            };
            if !requested {
                return Err(StartupError::CertificateNotRequested);
            }
            if !sent {
                return Err(StartupError::CertificateNotSent);
            }
        }
        Ok((State::Authenticated, StartupStep::Continue))
    }

    fn start_scram(
        &mut self,
        mechanisms: &[std::borrow::Cow<'_, str>],
    ) -> Result<(State, StartupStep), StartupError> {
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let plus = offered(SCRAM_SHA_256_PLUS);
        let binding = match (&self.channel, self.channel_binding) {
            (Channel::Plain, ChannelBinding::Require) => {
                return Err(StartupError::NotBound("SSL is not in use"));
            }
            // A server offers channel binding on TLS only: somebody between has taken the TLS off.
            (Channel::Plain, _) if plus => return Err(StartupError::PlusWithoutTls),
            (Channel::Plain, _) | (_, ChannelBinding::Disable) => None,
            (Channel::Tls { end_point, .. }, _) if plus => {
                let end_point = end_point.clone().ok_or(StartupError::NoEndPoint)?;
                Some(Binding::tls_server_end_point(end_point))
            }
            (_, ChannelBinding::Require) => {
                return Err(StartupError::NotBound(
                    "the server did not offer an authentication method that supports channel \
                     binding",
                ));
            }
            (_, ChannelBinding::Prefer) => Some(Binding::unrequested()),
        };
        self.bound = plus && binding.is_some();
        if !self.bound && !offered(SCRAM_SHA_256) {
            return Err(StartupError::UnsupportedAuthentication {
                method: error::mechanism_names(mechanisms),
            });
        }
        self.allow(AuthMethod::ScramSha256, "SCRAM-SHA-256")?;
        let mechanism = if self.bound { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
        let scram = Scram::new(self.password()?, binding.unwrap_or_else(Binding::unsupported));
        let bytes = frontend::sasl_initial_response(mechanism, scram.message())?;
        Ok((State::ScramFirst(scram), StartupStep::Send(bytes)))
    }

    /// Whether a way of authentication that binds nothing will do.
    fn unbound_will_do(&self) -> Result<(), StartupError> {
        if self.channel_binding == ChannelBinding::Require {
            return Err(StartupError::NotBound(
                "it is not supported by the server's authentication request",
            ));
        }
        Ok(())
    }

    /// Holds what the server asks for against `require_auth`.
    fn allow(&self, method: AuthMethod, asked_for: &'static str) -> Result<(), StartupError> {
        match &self.require_auth {
            Some(required) if !required.allows(method) => {
                Err(StartupError::NotAllowed { asked_for, required: required.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn password(&self) -> Result<&[u8], StartupError> {
        self.password
            .as_ref()
            .map(Secret::expose)
            .ok_or_else(|| StartupError::NoPassword { places: self.places.clone() })
    }
}
