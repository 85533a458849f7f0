//! How a connection begins: what is asked before anything, encryption, who it is, and whether that
//! is proved.

use pg_wire::message::SqlState;
use pg_wire::server::frame::{self, ClientMessage, FrameError};
use pg_wire::server::response::Refusal;
use pg_wire::server::scram::{self, Exchange};
use pg_wire::server::startup::{FirstPacket, Kind, StartupMessage};

use super::{Ask, Sender, State};

/// The longest name (`NAMEDATALEN`).
const MAX_NAME: usize = 63;

impl Sender {
    pub(super) fn first_packet(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let is_first = matches!(self.state, State::First { ssl: false, gss: false });
        if self.offers_tls && is_first && bytes.first() == Some(&frame::TLS_HANDSHAKE) {
            self.state = State::Handshake { asked: false };
            self.asks.push_back(Ask::Tls(bytes.to_vec()));
            return Ok(Some(bytes.len()));
        }
        let Some((body, len)) = frame::startup_packet(bytes)? else { return Ok(None) };
        let State::First { ssl, gss } = &mut self.state else { return Ok(None) };
        let newest = self.host.newest_minor();
        match FirstPacket::parse(body, newest) {
            Ok(FirstPacket::Ssl) if !*ssl => {
                *ssl = true;
                if self.encryption(bytes.len() > len, "SSL request", self.offers_tls) {
                    self.state = State::Handshake { asked: true };
                    self.asks.push_back(Ask::Tls(Vec::new()));
                }
            }
            Ok(FirstPacket::Gss) if !*gss => {
                *gss = true;
                self.encryption(bytes.len() > len, "GSSAPI encryption request", false);
            }
            Ok(FirstPacket::Cancel { process_id, key }) => {
                self.asks.push_back(Ask::Cancel { process_id, key });
                self.state = State::Closed;
            }
            Ok(FirstPacket::Startup(startup)) => {
                if let Err(refusal) = self.startup(startup) {
                    self.asks.push_back(Ask::Note(refusal.message.clone()));
                    self.refuse(&refusal);
                }
            }
            Ok(_) => self.refuse(&Refusal::fatal(
                SqlState::PROTOCOL_VIOLATION,
                "encryption was asked for, and refused, before",
            )),
            Err(refusal) => {
                self.asks.push_back(Ask::Note(refusal.message.clone()));
                self.refuse(&refusal);
            }
        }
        Ok(Some(len))
    }

    /// Says whether there is any, unless somebody has put bytes behind the request.
    fn encryption(&mut self, more: bool, request: &str, is_there: bool) -> bool {
        if more {
            let text = format!("received unencrypted data after {request}");
            let refusal = Refusal::fatal(SqlState::PROTOCOL_VIOLATION, text).detail(
                "This could be either a client-software bug or evidence of an attempted \
                 man-in-the-middle attack.",
            );
            self.asks.push_back(Ask::Note(refusal.message.clone()));
            self.refuse(&refusal);
            return false;
        }
        self.outgoing.plain(if is_there { b'S' } else { b'N' });
        is_there
    }

    fn startup(&mut self, startup: StartupMessage) -> Result<(), Refusal> {
        let user = startup.user()?.to_owned();
        let kind = startup.kind()?;
        if let Kind::Database(name) = kind {
            self.database = Some(name);
        }
        let newest = self.host.newest_minor();
        if startup.minor > newest || !startup.unknown_options.is_empty() {
            self.outgoing.negotiate(newest.min(startup.minor), &startup.unknown_options);
        }
        self.settings = startup.settings();
        if let Some(name) = self.settings.get_mut("application_name") {
            // As an identifier (`truncate_identifier`, scansup.c), then as what is shown.
            name.truncate(name.floor_char_boundary(MAX_NAME));
            *name = self.host.clean(name);
        }
        self.user.clone_from(&user);
        self.asks.push_back(Ask::Login(user));
        self.state = State::LoggingIn(startup);
        Ok(())
    }

    pub(super) fn logged_in(&mut self, startup: &StartupMessage) {
        self.outgoing.authentication_ok();
        // As the server says that there is no such database: to those that it lets in.
        if startup.kind() == Ok(Kind::Ordinary) {
            let text = "an ordinary connection isn't served here: this is seawall, which has WAL and \
                        no database";
            let hint =
                "Connect with replication=true: a standby's primary_conninfo, pg_receivewal.";
            let refusal = Refusal::fatal(SqlState::FEATURE_NOT_SUPPORTED, text).hint(hint);
            self.asks.push_back(Ask::Note(refusal.message.clone()));
            return self.refuse(&refusal);
        }
        for (name, value) in self.host.parameters(&self.settings, &self.user) {
            self.outgoing.parameter(name, &value);
        }
        // Until 3.2 a key has four bytes.
        let long = startup.minor.min(self.host.newest_minor()) >= 2;
        let key = self.secrets.cancel_key;
        let [a, b, c, d, ..] = key;
        let key: &[u8] = if long { &key } else { &[a, b, c, d] };
        self.outgoing.backend_key(self.secrets.process_id, key);
        self.outgoing.ready();
        self.state = State::Idle { to_sync: false };
    }

    pub(super) fn in_sasl(
        &mut self,
        mut exchange: Box<Exchange>,
        startup: StartupMessage,
        message: ClientMessage<'_>,
    ) {
        let ClientMessage::Password(body) = message else {
            if message != ClientMessage::Terminate {
                let text = "expected SASL response, got another message";
                self.refuse(&Refusal::fatal(SqlState::PROTOCOL_VIOLATION, text));
            }
            return;
        };
        match exchange.handle(body) {
            Ok(scram::Step::Continue(challenge)) => {
                self.outgoing.authentication_continue(&challenge);
                self.state = State::Sasl(exchange, startup);
            }
            Ok(scram::Step::Success(proof)) => {
                self.outgoing.authentication_final(&proof);
                self.logged_in(&startup);
            }
            Ok(scram::Step::Failure) => {
                let text = format!("password authentication failed for user \"{}\"", self.user);
                self.asks.push_back(Ask::Note(text.clone()));
                self.refuse(&Refusal::fatal(SqlState::INVALID_PASSWORD, text));
            }
            Err(refusal) => {
                self.asks.push_back(Ask::Note(refusal.message.clone()));
                self.refuse(&refusal);
            }
        }
    }
}
