//! From settings to a connection that takes commands: which server, which of its addresses,
//! encrypted or not, in libpq's order (`PQconnectPoll`, fe-connect.c).
//!
//! A server that can't be reached, or can't take connections now, or isn't of the wanted kind, is
//! passed over for the next one. One that refuses ends it: another password won't be tried
//! elsewhere. Where `sslmode` leaves it open whether there is TLS, the other way is tried once.

use std::io::{self, ErrorKind};
use std::time::Duration;

use pg_wire::command;
use pg_wire::message::SqlState;
use pg_wire::row::show_value;
use pg_wire::settings::{ConnectionSettings, Fit, Server, SslNegotiation, TargetSession};
use pg_wire::startup::{
    Attempts, Channel, Encryption, SSL_REQUEST, ServerInfo, SslAnswer, Startup, StartupError,
};
use replication::{Connection, Event, ProtocolError, Timing};

use crate::socket::Socket;
use crate::stream::{Address, Stream};
use crate::tls::{Client, TlsStream};
use crate::{Link, SessionError, read_passwords, user_name};

/// For connecting and authenticating at one address, unless `connect_timeout` says otherwise: a
/// server that needs longer isn't there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection, and what the server said of itself.
type Opened = (Link, ServerInfo);

/// What is tried after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The same address, encrypted the other way.
    Way,
    /// The next address of the same server.
    Address,
    /// The next server.
    Server,
    /// Nothing.
    Stop,
}

struct Failed {
    error: SessionError,
    next: Next,
}

impl Failed {
    fn then(next: Next) -> impl Fn(SessionError) -> Self {
        move |error| Self { error, next }
    }

    /// What a server says, or does, while the connection starts.
    fn in_startup(error: SessionError) -> Self {
        let next = match &error {
            SessionError::Protocol(ProtocolError::Startup(StartupError::Server(message))) => {
                match message.sqlstate {
                    SqlState::CANNOT_CONNECT_NOW => Next::Server,
                    _ => Next::Way,
                }
            }
            _ => Next::Stop,
        };
        Self { error, next }
    }
}

/// One way to open connections.
pub(crate) struct Opening {
    settings: ConnectionSettings,
    startup: Startup,
    timing: Timing,
}

impl Opening {
    /// With the passwords that the password file has now.
    pub(crate) fn new(settings: &ConnectionSettings, startup: Startup, timing: Timing) -> Self {
        let mut settings = settings.clone();
        // Whoever set it up was told already of a file that isn't used.
        _ = read_passwords(&mut settings, startup.database());
        Self { settings, startup, timing }
    }

    /// Connects and authenticates.
    pub(crate) async fn run(&self) -> Result<Opened, SessionError> {
        let mut servers: Vec<&Server> = self.settings.servers.iter().collect();
        if self.settings.load_balance {
            shuffle(&mut servers);
        }
        let targets = match self.settings.target {
            // First whoever is a standby; then whoever is there.
            TargetSession::PreferStandby => vec![TargetSession::PreferStandby, TargetSession::Any],
            target => vec![target],
        };
        let mut failures = Vec::new();
        for target in targets {
            failures.clear();
            for server in &servers {
                match self.server(server, target, &mut failures).await {
                    Ok(Some(opened)) => return Ok(opened),
                    Ok(None) => {}
                    Err(Stopped) => return Err(SessionError::all_of(failures)),
                }
            }
        }
        Err(SessionError::all_of(failures))
    }

    /// Tries a server; `None` if another is to be tried.
    async fn server(
        &self,
        server: &Server,
        target: TargetSession,
        failures: &mut Vec<(String, SessionError)>,
    ) -> Result<Option<Opened>, Stopped> {
        let name = server.to_string();
        let mut addresses = match Address::all_of(server).await {
            Ok(addresses) => addresses,
            Err(error) => {
                let endpoint = name.clone();
                failures.push((name, SessionError::Connect { endpoint, error }));
                return Ok(None);
            }
        };
        if self.settings.load_balance {
            shuffle(&mut addresses);
        }
        let limit = self.settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        for address in &addresses {
            let trying = self.address(server, address, target, failures);
            let Ok(tried) = tokio::time::timeout(limit, trying).await else {
                let (endpoint, seconds) = (name.clone(), limit.as_secs());
                failures.push((name.clone(), SessionError::ConnectTimeout { endpoint, seconds }));
                continue;
            };
            match tried {
                Ok(opened) => return Ok(Some(opened)),
                Err(Next::Address) => {}
                Err(Next::Server) => return Ok(None),
                Err(Next::Way | Next::Stop) => return Err(Stopped),
            }
        }
        Ok(None)
    }

    /// Tries an address, each way that is allowed.
    async fn address(
        &self,
        server: &Server,
        address: &Address,
        target: TargetSession,
        failures: &mut Vec<(String, SessionError)>,
    ) -> Result<Opened, Next> {
        let mut attempts = Attempts::new(self.settings.tls.mode, server);
        let mut next = Next::Stop;
        while let Some(way) = attempts.next_way() {
            let tried = self.attempt(server, address, way, &mut attempts).await;
            let failed = match tried {
                Ok(opened) => match self.fits(opened, target).await {
                    Ok(opened) => return Ok(opened),
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            let how = match way {
                Encryption::Tls => " with TLS",
                Encryption::Plain => " without TLS",
            };
            next = failed.next;
            failures.push((format!("{server}{how}"), failed.error));
            if next != Next::Way {
                break;
            }
        }
        Err(next)
    }

    /// Tries an address in one way.
    async fn attempt(
        &self,
        server: &Server,
        address: &Address,
        way: Encryption,
        attempts: &mut Attempts,
    ) -> Result<Opened, Failed> {
        let endpoint = || server.to_string();
        let connected = Stream::connect(address, &self.settings).await;
        let connected = connected
            .map_err(|error| SessionError::Connect { endpoint: endpoint(), error })
            .map_err(Failed::then(Next::Address))?;
        self.check_peer(&connected, server).map_err(Failed::then(Next::Stop))?;
        let (socket, channel) = match way {
            Encryption::Plain => (Socket::Plain(connected), Channel::Plain),
            Encryption::Tls => self.secure(server, connected, attempts).await?,
        };
        let startup = self.startup.on(&self.settings, server, channel);
        let connection = Connection::new(startup, self.timing);
        let mut link = Link { connection, socket, server: server.clone() };
        match link.next_event().await {
            Ok(Event::Ready(info)) => Ok((link, *info)),
            Ok(_) => Err(Failed::in_startup(SessionError::Closed)),
            Err(error) => Err(Failed::in_startup(error)),
        }
    }

    /// Begins TLS, by asking for it or at once; without it if the server has none and that will do.
    async fn secure(
        &self,
        server: &Server,
        mut stream: Stream,
        attempts: &mut Attempts,
    ) -> Result<(Socket, Channel), Failed> {
        let stop =
            |error: StartupError| Failed::then(Next::Stop)(ProtocolError::from(error).into());
        let tls = &self.settings.tls;
        let failed = |error| {
            let endpoint = server.to_string();
            Failed { error: SessionError::Tls { endpoint, error }, next: Next::Way }
        };
        if tls.negotiation == SslNegotiation::Postgres {
            let answer = ask_for_tls(&mut stream)
                .await
                .map_err(SessionError::Broken)
                .map_err(Failed::then(Next::Stop))?;
            match SslAnswer::read(&answer).map_err(stop)? {
                SslAnswer::Yes => {}
                SslAnswer::No if attempts.may_be_plain() => {
                    _ = attempts.next_way();
                    return Ok((Socket::Plain(stream), Channel::Plain));
                }
                SslAnswer::No => return Err(stop(StartupError::NoTls)),
            }
        }
        let client = Client::new(tls, server).map_err(failed)?;
        let (stream, channel) = TlsStream::connect(stream, &client).await.map_err(failed)?;
        if tls.negotiation == SslNegotiation::Direct && !stream.has_alpn() {
            return Err(stop(StartupError::NoAlpn));
        }
        Ok((Socket::Tls(Box::new(stream)), channel))
    }

    /// Whether the server runs as the user that it has to (`requirepeer`).
    fn check_peer(&self, stream: &Stream, server: &Server) -> Result<(), SessionError> {
        let (Some(wanted), Some(uid)) = (&self.settings.require_peer, stream.peer_uid()) else {
            return Ok(());
        };
        let uid = uid.map_err(SessionError::Broken)?;
        let name = user_name(uid).unwrap_or_else(|| format!("with id {uid}"));
        if name == *wanted {
            return Ok(());
        }
        let (endpoint, wanted) = (server.to_string(), wanted.clone());
        Err(SessionError::WrongPeer { endpoint, wanted, name })
    }

    /// Whether it is a server of the kind that is wanted.
    async fn fits(&self, opened: Opened, target: TargetSession) -> Result<Opened, Failed> {
        let (mut link, info) = opened;
        let (standby, read_only) =
            (info.is_on("in_hot_standby"), info.is_on("default_transaction_read_only"));
        let mut fit = target.fit(standby, read_only);
        if fit == Fit::AskReadOnly {
            let asked = link.ask(&command::show("transaction_read_only")).await;
            let asked = asked.map_err(SessionError::from).and_then(|rows| Ok(show_value(&rows)?));
            let is_on = Some(asked.map_err(Failed::then(Next::Server))? == "on");
            fit = target.fit(is_on, is_on);
        }
        match fit {
            Fit::Yes => Ok((link, info)),
            Fit::No(why) => {
                link.connection.terminate();
                _ = link.transmit();
                Err(Failed { error: SessionError::WrongTarget(why), next: Next::Server })
            }
            Fit::AskReadOnly => Err(Failed { error: SessionError::Closed, next: Next::Server }),
        }
    }
}

/// Nothing more is tried.
struct Stopped;

/// Sends the request, and gives the one byte that is to come; more of them, if more are there.
async fn ask_for_tls(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut rest = &SSL_REQUEST[..];
    while !rest.is_empty() {
        match stream.try_write(rest)? {
            Some(len) => rest = rest.get(len..).unwrap_or_default(),
            None => stream.writable().await?,
        }
    }
    let mut answer = [0; 2];
    loop {
        match stream.try_read_vectored(&mut [io::IoSliceMut::new(&mut answer)])? {
            None => stream.readable().await?,
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(len) => return Ok(answer.get(..len).unwrap_or_default().to_vec()),
        }
    }
}

/// Puts a list into random order (Fisher and Yates).
fn shuffle<T>(list: &mut [T]) {
    for at in (1..list.len()).rev() {
        // A machine without randomness has a worse order.
        let random = getrandom::u64().unwrap_or_default();
        let other = usize::try_from(random % (at as u64 + 1)).unwrap_or_default();
        list.swap(at, other);
    }
}
