//! A client that says what it is told to, and hears every message.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::Must;

/// A message: its tag and body.
pub(super) type Message = (u8, Vec<u8>);

pub(super) struct Wire(pub(super) TcpStream);

impl Wire {
    pub(super) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).must();
        stream.set_read_timeout(Some(Duration::from_secs(60))).must();
        Self(stream)
    }

    /// Logs in by trust; gives what is said until the server is ready.
    pub(super) fn log_in(port: u16, parameters: &[(&str, &str)]) -> (Self, Vec<Message>) {
        let mut wire = Self::connect(port);
        wire.send(&startup(parameters));
        let heard = wire.until_ready();
        (wire, heard)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).must();
    }

    pub(super) fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(&frame(b'Q', &[text.as_bytes(), b"\0"].concat()));
        self.until_ready()
    }

    /// What comes until ReadyForQuery, CopyBothResponse or the end.
    pub(super) fn until_ready(&mut self) -> Vec<Message> {
        let mut heard = Vec::new();
        while let Some(message) = self.message() {
            let last = matches!(message.0, b'Z' | b'W');
            heard.push(message);
            if last {
                break;
            }
        }
        heard
    }

    /// The next one; `None` at the end.
    pub(super) fn message(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).ok()?;
        let [tag, length @ ..] = head;
        let len = usize::try_from(u32::from_be_bytes(length)).must().checked_sub(4)?;
        assert!(len < 1 << 20, "a message of {len} bytes");
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).ok()?;
        Some((tag, body))
    }

    /// Whether the server has closed the connection; what it says before that is passed over.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

pub(super) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).must().to_be_bytes();
    [&[tag], len.as_slice(), body].concat()
}

pub(super) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let len = u32::try_from(body.len() + 4).must().to_be_bytes();
    [len.as_slice(), &body].concat()
}

pub(super) const REPLICATION: &[(&str, &str)] =
    &[("user", "postgres"), ("replication", "true"), ("application_name", "wire")];

/// The fields of an error that a client may look at: not where in the server's source it is.
pub(super) fn error(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let fields = fields.map(String::from_utf8_lossy);
    let fields = fields.filter(|field| !field.starts_with(['F', 'L', 'R', 'P', 'W']));
    fields.collect::<Vec<_>>().join(" | ")
}

/// A row's values.
pub(super) fn row(mut body: &[u8]) -> Vec<String> {
    let mut take = |len: usize| {
        let (head, rest) = body.split_at(len);
        body = rest;
        head.to_vec()
    };
    let count = u16::from_be_bytes(take(2).try_into().unwrap_or_default());
    let values = (0..count).map(|_| {
        let len = i32::from_be_bytes(take(4).try_into().unwrap_or_default());
        match usize::try_from(len) {
            Ok(len) => String::from_utf8_lossy(&take(len)).into_owned(),
            Err(_) => "null".to_owned(),
        }
    });
    values.collect()
}
