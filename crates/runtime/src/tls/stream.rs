//! A TLS connection on a socket that is never waited for while it is read or written.
//!
//! Ciphertext is read in large pieces into a buffer, since rustls by itself would ask the kernel
//! for 4 KiB at a time. Plaintext goes from rustls straight to where it belongs: two copies.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::sync::Arc;

use pg_wire::startup::{ALPN, Channel};
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};

use super::{Client, TlsError};
use crate::stream::Stream;

/// What is read at once: two of TLS' longest records.
const INPUT_LEN: usize = 32 << 10;
/// What is encrypted at once: one record.
const OUTPUT_LEN: usize = 16 << 10;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct TlsStream {
    stream: Stream,
    connection: Connection,
    /// Ciphertext that rustls hasn't taken yet lies in `from..to`.
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// Plaintext that rustls has.
    plaintext: usize,
    /// Bytes that were encrypted and aren't sent yet: whoever gave them will give them again.
    unsent: usize,
}

/// What came of reading ciphertext.
enum Received {
    Some,
    Nothing,
    End,
}

impl TlsStream {
    /// Does the handshake.
    pub(crate) async fn connect(
        stream: Stream,
        client: &Client,
    ) -> Result<(Self, Channel), TlsError> {
        let handshake = |error: rustls::Error| TlsError::Handshake(error.to_string());
        let connection = ClientConnection::new(client.config.clone(), client.name.clone());
        let mut this = Self::new(stream, connection.map_err(handshake)?.into());
        if let Err(error) = this.handshake().await {
            let is_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return Err(match (client.verifier.take_flaw(), is_tls) {
                (Some(flaw), _) => TlsError::Certificate(flaw),
                (None, Some(error)) => TlsError::Handshake(error.to_string()),
                (None, None) => TlsError::Broken(error),
            });
        }
        let certificates = this.connection.peer_certificates().unwrap_or_default();
        let channel = client.channel(certificates.first().map_or(&[][..], |leaf| leaf.as_ref()));
        Ok((this, channel))
    }

    /// Does the handshake as the server; `received` was read already.
    pub(super) async fn accept(
        stream: Stream,
        config: Arc<ServerConfig>,
        mut received: Vec<u8>,
    ) -> Result<Self, TlsError> {
        let handshake = |error: rustls::Error| TlsError::Handshake(error.to_string());
        let connection = ServerConnection::new(config).map_err(handshake)?;
        let mut this = Self::new(stream, connection.into());
        this.to = received.len();
        received.resize(INPUT_LEN.max(this.to), 0);
        this.input = received;
        match this.handshake().await {
            Ok(()) => Ok(this),
            Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => handshake(rustls::Error::clone(error)),
                None => TlsError::Broken(error),
            }),
        }
    }

    fn new(stream: Stream, connection: Connection) -> Self {
        let input = vec![0; INPUT_LEN];
        let (from, to, plaintext, unsent) = (0, 0, 0, 0);
        Self { stream, connection, input, from, to, plaintext, unsent }
    }

    /// The other side's certificate, if it showed one.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        self.connection.peer_certificates()?.first().map(AsRef::as_ref)
    }

    async fn handshake(&mut self) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.connection.wants_write() {
                self.stream.writable().await?;
            } else if !self.connection.is_handshaking() {
                return Ok(());
            } else {
                match self.receive()? {
                    Received::Some => {}
                    Received::Nothing => self.stream.readable().await?,
                    Received::End => return Err(ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }

    /// Whether the server agreed by ALPN to speak the protocol.
    pub(crate) fn has_alpn(&self) -> bool {
        self.connection.alpn_protocol() == Some(ALPN)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.plaintext > 0 || self.from < self.to {
            return Ok(());
        }
        self.stream.readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// As [`Stream::try_read_vectored`], and fills the places as far as it can.
    pub(crate) fn try_read_vectored(
        &mut self,
        bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<Option<usize>> {
        let mut total = 0;
        for buf in bufs {
            let mut buf = &mut buf[..];
            while !buf.is_empty() {
                if self.plaintext == 0 {
                    match self.receive() {
                        Ok(Received::Some) => continue,
                        // What has come is given first; an error, or the end, comes again.
                        _ if total > 0 => return Ok(Some(total)),
                        Ok(Received::Nothing) => return Ok(None),
                        Ok(Received::End) => return Ok(Some(0)),
                        Err(error) => return Err(error),
                    }
                }
                let len = self.connection.reader().read(buf)?;
                self.plaintext = self.plaintext.saturating_sub(len);
                total += len;
                buf = buf.get_mut(len..).unwrap_or_default();
                if len == 0 {
                    return Ok(Some(total));
                }
            }
        }
        Ok(Some(total))
    }

    /// Encrypts and sends; gives how many bytes are on their way, `None` if the socket takes no
    /// more. Then the same bytes are to be given again, and possibly more behind them.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if self.unsent == 0 {
            let piece = bytes.get(..OUTPUT_LEN).unwrap_or(bytes);
            self.unsent = self.connection.writer().write(piece)?;
        }
        self.flush()?;
        if self.connection.wants_write() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.unsent)))
    }

    /// Sends what is encrypted, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Nonblocking(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes ciphertext in and decrypts it.
    fn receive(&mut self) -> io::Result<Received> {
        if self.from >= self.to {
            let room = [IoSliceMut::new(&mut self.input)];
            match self.stream.try_read_vectored(&mut { room })? {
                None => return Ok(Received::Nothing),
                Some(0) => return Ok(Received::End),
                Some(len) => (self.from, self.to) = (0, len),
            }
        }
        let mut rest = self.input.get(self.from..self.to).unwrap_or_default();
        self.from += self.connection.read_tls(&mut rest)?;
        let state = match self.connection.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The other side is told why, if it still listens.
                _ = self.flush();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        };
        self.plaintext = state.plaintext_bytes_to_read();
        if self.plaintext == 0 && state.peer_has_closed() {
            return Ok(Received::End);
        }
        self.flush()?;
        Ok(Received::Some)
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.connection.send_close_notify();
        // A server that doesn't hear it notices the socket's end.
        _ = self.flush();
    }
}

/// The socket as rustls writes to it.
struct Nonblocking<'a>(&'a Stream);

impl Write for Nonblocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)?.ok_or_else(|| ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
