//! What the server can send: a client that reads the stream and throws it away.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use pg_types::{Lsn, TimelineId};
use pg_wire::command::{SlotName, start_replication};
use pg_wire::message::{BackendMessage, FrameHeader, Phase, frontend};
use pg_wire::settings::{ConnectionSettings, Flags, Inputs};
use pg_wire::startup::{Startup, StartupStep};

/// Read at once: as much as the kernel gives.
const READ_LEN: usize = 1 << 20;

/// Streams from `start`, and throws away until so many bytes have come; gives the seconds that it
/// took, and the connection.
///
/// # Errors
/// If the server can't be reached, or ends the stream.
pub fn drain(
    port: u16,
    slot: Option<&SlotName>,
    start: Lsn,
    bytes: u64,
) -> Result<(f64, TcpStream)> {
    let began = Instant::now();
    let mut stream = stream(port, slot, start)?;
    let mut buf = vec![0; READ_LEN];
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut buf)? {
            0 => bail!("the server ended the stream {left} bytes early"),
            len => left = left.saturating_sub(len as u64),
        }
    }
    Ok((began.elapsed().as_secs_f64(), stream))
}

/// Has the server stream from `start`; what comes is to be read.
///
/// # Errors
/// If the server can't be reached.
pub fn stream(port: u16, slot: Option<&SlotName>, start: Lsn) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    start_up(&mut stream, port)?;
    let command = start_replication(slot, start, TimelineId::FIRST);
    stream.write_all(&frontend::query(&command)?)?;
    Ok(stream)
}

fn start_up(stream: &mut TcpStream, port: u16) -> Result<()> {
    let flags = Flags {
        host: Some("127.0.0.1".to_owned()),
        port: Some(port.to_string()),
        user: Some("postgres".to_owned()),
        application_name: Some("sink".to_owned()),
        ..Flags::default()
    };
    let settings = ConnectionSettings::resolve(&Inputs { flags, ..Inputs::default() })?;
    let mut startup = Startup::physical_replication(&settings)?;
    stream.write_all(startup.initial_bytes())?;
    loop {
        let mut header = [0; FrameHeader::LEN];
        stream.read_exact(&mut header)?;
        let frame = FrameHeader::parse(header, Phase::Startup)?;
        let mut body = vec![0; frame.len];
        stream.read_exact(&mut body).context("starting up")?;
        match startup.handle(BackendMessage::parse(frame.tag, &body)?)? {
            StartupStep::Ready(_) => return Ok(()),
            StartupStep::Send(bytes) => stream.write_all(&bytes)?,
            _ => {}
        }
    }
}
