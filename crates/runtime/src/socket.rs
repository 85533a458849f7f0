//! A stream socket, TCP or Unix.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::net::{IpAddr, SocketAddr};

use pg_wire::settings::{ConnectionSettings, Host};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A connected socket that is never waited for while it is read or written.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects; a name's addresses are tried in turn.
    pub(crate) async fn connect(settings: &ConnectionSettings) -> io::Result<Self> {
        if let Some(path) = settings.socket_path() {
            return Ok(Self::Unix(UnixStream::connect(path).await?));
        }
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in addresses(settings).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    set_options(&stream, settings)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads what is there: `None` if nothing is, 0 at the end.
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.try_read_vectored(&mut [IoSliceMut::new(buf)])
    }

    /// The same into several places.
    pub(crate) fn try_read_vectored(
        &self,
        bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<Option<usize>> {
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut short = None;
        let mut read = |socket: SockRef<'_>| match (&*socket).read_vectored(bufs)? {
            got if got == 0 || got == room => Ok(got),
            got => {
                // Nothing is left (epoll(7), on stream sockets), so there is no need to ask.
                short = Some(got);
                Err(ErrorKind::WouldBlock.into())
            }
        };
        let got = now(|| match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || read(stream.into())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || read(stream.into())),
        })?;
        Ok(got.or(short))
    }

    /// Writes what there is room for: `None` if there is none.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        now(|| match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        })
    }
}

/// Runs a system call that doesn't wait; `None` if it would have.
fn now(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(len) => return Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn addresses(settings: &ConnectionSettings) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = settings.hostaddr {
        return Ok(vec![SocketAddr::new(address, settings.port)]);
    }
    let Host::Tcp { host } = &settings.host else { return Ok(Vec::new()) };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, settings.port)]);
    }
    Ok(tokio::net::lookup_host((host.as_str(), settings.port)).await?.collect())
}

fn set_options(stream: &TcpStream, settings: &ConnectionSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let wanted = &settings.keepalives;
    if wanted.enabled {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = wanted.idle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = wanted.interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = wanted.count {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if settings.tcp_user_timeout.is_some() {
        socket.set_tcp_user_timeout(settings.tcp_user_timeout)?;
    }
    Ok(())
}
