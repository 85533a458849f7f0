//! The start of a connection: the startup packet, authentication, the server's parameters, until
//! it is ready for a command.
//!
//! The machine gives bytes to send and takes messages. It answers trust, password, md5 and
//! SCRAM-SHA-256; anything else is refused by name. A server that asked for SCRAM must finish it:
//! its signature is checked before anything it says is believed. No error shows the password.
//!
//! SCRAM is postgres-protocol's, which draws its nonce itself; that is the one value here that
//! doesn't come from the caller.

mod error;
mod scram;

#[cfg(test)]
mod tests;

pub use error::StartupError;
pub use scram::MAX_SCRAM_ITERATIONS;

use std::collections::BTreeMap;

use pg_types::ServerVersion;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

use crate::Secret;
use crate::message::{Authentication, BackendMessage, ServerMessage, frontend};
use crate::settings::{AuthMethod, ConnectionSettings, REPLICATION_DATABASE, RequireAuth};
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

/// The start of one connection.
pub struct Startup {
    packet: Vec<u8>,
    user: String,
    password: Option<Secret>,
    require_auth: Option<RequireAuth>,
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
        let packet = frontend::startup(parameters)?;
        if packet.len() > MAX_STARTUP_PACKET {
            return Err(StartupError::PacketTooLong { len: packet.len() });
        }
        Ok(Self {
            packet,
            user: settings.user.clone(),
            password: settings.password.clone().filter(|password| !password.is_empty()),
            require_auth: settings.require_auth.clone(),
            places: error::password_places(settings, database),
            state: State::Start,
            info: ServerInfo::default(),
            parameter_bytes: 0,
            notices: Vec::new(),
        })
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
            // Protocol 3.0 without options is what was asked for, and any answer grants it.
            (state, BackendMessage::NegotiateProtocolVersion { .. }) => {
                Ok((state, StartupStep::Continue))
            }
            (State::Authenticated, message) => self.parameters(message),
            (state, BackendMessage::Authentication(request)) => self.authenticate(state, request),
            (_, message) => Err(StartupError::Unexpected { message: message.name() }),
        }
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
        &self,
        state: State,
        request: Authentication<'_>,
    ) -> Result<(State, StartupStep), StartupError> {
        match (state, request) {
            (State::Start, Authentication::Ok) => {
                self.allow(AuthMethod::None, "nothing (trust, peer, or a certificate)")?;
                Ok((State::Authenticated, StartupStep::Continue))
            }
            (State::PasswordSent | State::ScramDone, Authentication::Ok) => {
                Ok((State::Authenticated, StartupStep::Continue))
            }
            (State::ScramFirst(_) | State::ScramFinal(_), Authentication::Ok) => {
                Err(StartupError::ScramUnfinished)
            }
            (State::Start, Authentication::CleartextPassword) => {
                self.allow(AuthMethod::Password, "the password itself")?;
                let bytes = frontend::password(self.password()?)?;
                Ok((State::PasswordSent, StartupStep::Send(bytes)))
            }
            (State::Start, Authentication::Md5Password { salt }) => {
                self.allow(AuthMethod::Md5, "the password's md5 hash")?;
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

    fn start_scram(
        &self,
        mechanisms: &[std::borrow::Cow<'_, str>],
    ) -> Result<(State, StartupStep), StartupError> {
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        // A server offers channel binding on TLS only: somebody between has taken the TLS off.
        if offered(SCRAM_SHA_256_PLUS) {
            return Err(StartupError::PlusWithoutTls);
        }
        if !offered(SCRAM_SHA_256) {
            return Err(StartupError::UnsupportedAuthentication {
                method: error::mechanism_names(mechanisms),
            });
        }
        self.allow(AuthMethod::ScramSha256, "SCRAM-SHA-256")?;
        let scram = Scram::new(self.password()?);
        let bytes = frontend::sasl_initial_response(SCRAM_SHA_256, scram.message())?;
        Ok((State::ScramFirst(scram), StartupStep::Send(bytes)))
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
