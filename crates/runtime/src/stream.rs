//! A stream socket, TCP or Unix, that is never waited for while it is read or written.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use pg_wire::settings::{ConnectionSettings, Host, Server};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::world::{self, ClientEnd};

/// Where to connect to: one address of a server.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// A server's addresses, in the order in which they are tried.
    pub(crate) async fn all_of(server: &Server) -> io::Result<Vec<Self>> {
        if let Some(path) = server.socket_path() {
            return Ok(vec![Self::Unix(path)]);
        }
        let tcp = |address| Self::Tcp(SocketAddr::new(address, server.port));
        let Host::Tcp { host } = &server.host else { return Ok(Vec::new()) };
        if let Some(address) = server.hostaddr.or_else(|| host.parse::<IpAddr>().ok()) {
            return Ok(vec![tcp(address)]);
        }
        let found = tokio::net::lookup_host((host.as_str(), server.port)).await?;
        let found: Vec<Self> = found.map(Self::Tcp).collect();
        if found.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// One that the event loop knows nothing of: a thread has it that waits for it by itself.
    Detached {
        socket: socket2::Socket,
        is_unix: bool,
    },
    /// A simulated one.
    Wire(ClientEnd),
}

impl Stream {
    pub(crate) async fn connect(
        address: &Address,
        settings: &ConnectionSettings,
    ) -> io::Result<Self> {
        if let Some(wire) = world::connect() {
            return Ok(Self::Wire(ClientEnd(wire?)));
        }
        match address {
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                set_options(&stream, settings)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Takes it from the event loop.
    pub(crate) fn detach(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => {
                Self::Detached { socket: stream.into_std()?.into(), is_unix: false }
            }
            Self::Unix(stream) => {
                Self::Detached { socket: stream.into_std()?.into(), is_unix: true }
            }
            other => other,
        })
    }

    /// Gives it to the event loop again.
    pub(crate) fn attach(self) -> io::Result<Self> {
        Ok(match self {
            Self::Detached { socket, is_unix: true } => {
                Self::Unix(UnixStream::from_std(socket.into())?)
            }
            Self::Detached { socket, .. } => Self::Tcp(TcpStream::from_std(socket.into())?),
            other => other,
        })
    }

    /// Waits, on this thread, until a detached one can be written to; `false` if it can't be for so
    /// long, or if something came that is to be read.
    pub(crate) fn wait_writable(&self, limit: Duration) -> io::Result<bool> {
        let Self::Detached { socket, .. } = self else { return Ok(false) };
        let mut polled = [PollFd::new(socket, PollFlags::OUT | PollFlags::IN)];
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [polled] = polled;
        let now = polled.revents();
        Ok(now.contains(PollFlags::OUT) && !now.contains(PollFlags::IN))
    }

    /// The user that the other side of a Unix socket runs as.
    pub(crate) fn peer_uid(&self) -> Option<io::Result<u32>> {
        match self {
            Self::Tcp(_) | Self::Detached { .. } | Self::Wire(_) => None,
            Self::Unix(stream) => Some(stream.peer_cred().map(|peer| peer.uid())),
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Detached { .. } => Err(detached()),
            Self::Wire(end) => {
                end.0.readable().await;
                Ok(())
            }
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
            Self::Detached { .. } => Err(detached()),
            Self::Wire(_) => Ok(()),
        }
    }

    /// Reads what is there, into these places in turn: `None` if nothing is, 0 at the end.
    pub(crate) fn try_read_vectored(
        &self,
        bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<Option<usize>> {
        if let Self::Wire(end) = self {
            return Ok(end.0.try_read_vectored(bufs));
        }
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
            Self::Detached { .. } => Err(detached()),
            Self::Wire(_) => Ok(0),
        })?;
        Ok(got.or(short))
    }

    /// The same of two pieces, in one call.
    pub(crate) fn try_write_both(&self, first: &[u8], then: &[u8]) -> io::Result<Option<usize>> {
        let slices = [IoSlice::new(first), IoSlice::new(then)];
        now(|| match self {
            Self::Tcp(stream) => stream.try_write_vectored(&slices),
            Self::Unix(stream) => stream.try_write_vectored(&slices),
            Self::Detached { socket, .. } => (&*socket).write_vectored(&slices),
            Self::Wire(end) => end.0.try_write(if first.is_empty() { then } else { first }),
        })
    }

    /// The same of a header and bytes of a file behind it, which go from the page cache to the
    /// socket by themselves. It may take the disk.
    pub(crate) fn try_send_file(
        &self,
        header: &[u8],
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<Option<usize>> {
        let send = |socket: SockRef<'_>| -> io::Result<usize> {
            let mut sent = 0;
            if !header.is_empty() {
                sent = rustix::net::send(&*socket, header, SendFlags::MORE)?;
                if sent < header.len() {
                    return Ok(sent);
                }
            }
            match rustix::fs::sendfile(&*socket, file, Some(&mut { offset }), len) {
                // What stops it is met again by the next call.
                Err(_) if sent > 0 => Ok(sent),
                of_file => Ok(sent + of_file?),
            }
        };
        now(|| match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, || send(stream.into())),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, || send(stream.into())),
            Self::Detached { socket, .. } => send(socket.into()),
            Self::Wire(_) => Err(ErrorKind::Unsupported.into()),
        })
    }

    /// Writes what there is room for: `None` if there is none.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        now(|| match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Detached { socket, .. } => (&*socket).write(bytes),
            Self::Wire(end) => end.0.try_write(bytes),
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

fn detached() -> io::Error {
    io::Error::other("the socket is a thread's")
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
