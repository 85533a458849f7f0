//! What a connection's bytes travel through: a socket, or TLS on one.
//!
//! It is never waited for while it is read or written. Plain text is read from the kernel straight
//! to where it belongs.

use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::stream::Stream;
use crate::tls::TlsStream;

/// A connected socket, encrypted or not.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(Stream),
    Tls(Box<TlsStream>),
    /// None any more, or none yet: a handshake has it.
    Closed,
}

impl Socket {
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.readable().await,
            Self::Tls(stream) => stream.readable().await,
            Self::Closed => Err(closed()),
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.writable().await,
            Self::Tls(stream) => stream.writable().await,
            Self::Closed => Err(closed()),
        }
    }

    /// Reads what is there: `None` if nothing is, 0 at the end.
    pub(crate) fn try_read(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.try_read_vectored(&mut [IoSliceMut::new(buf)])
    }

    /// The same into several places, in turn.
    pub(crate) fn try_read_vectored(
        &mut self,
        bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(stream) => stream.try_read_vectored(bufs),
            Self::Tls(stream) => stream.try_read_vectored(bufs),
            Self::Closed => Err(closed()),
        }
    }

    /// Writes what there is room for: `None` if there is none. Then the same bytes come first in
    /// the next call, as TLS needs it.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write(bytes),
            Self::Closed => Err(closed()),
        }
    }

    /// The same of two pieces, the second behind the first.
    pub(crate) fn try_write_both(
        &mut self,
        first: &[u8],
        then: &[u8],
    ) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(stream) => stream.try_write_both(first, then),
            Self::Tls(stream) => stream.try_write(if first.is_empty() { then } else { first }),
            Self::Closed => Err(closed()),
        }
    }

    /// Waits, on this thread, until it can be written to. `false` if that takes longer, or something
    /// came that is to be read, or if it is TLS, which is left to the event loop. That knows nothing
    /// of the socket then, until it is [attached](Self::attach) again.
    pub(crate) fn wait_writable(&mut self, limit: Duration) -> io::Result<bool> {
        self.change(Stream::detach)?;
        match self {
            Self::Plain(stream) => stream.wait_writable(limit),
            Self::Tls(_) => Ok(false),
            Self::Closed => Err(closed()),
        }
    }

    /// Gives it to the event loop, if that hasn't got it.
    pub(crate) fn attach(&mut self) -> io::Result<()> {
        self.change(Stream::attach)
    }

    fn change(&mut self, change: fn(Stream) -> io::Result<Stream>) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Plain(stream) => Self::Plain(change(stream)?),
            other => other,
        };
        Ok(())
    }

    /// Whether a file's bytes can go to it as they are.
    pub(crate) fn takes_files(&self) -> bool {
        matches!(self, Self::Plain(Stream::Tcp(_) | Stream::Unix(_) | Stream::Detached { .. }))
    }

    /// The same of a header and, behind it, bytes of a file. It may take the disk.
    pub(crate) fn try_send_file(
        &self,
        header: &[u8],
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(stream) => stream.try_send_file(header, file, offset, len),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Closed => Err(closed()),
        }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
