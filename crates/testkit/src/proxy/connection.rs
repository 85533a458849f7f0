//! One client's connection: two threads, one a direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::frames::{ClientFrame, ClientFrames, ServerFrames, WalSpan};
use super::words::Words;
use super::{
    Action, At, ClientMessage, ClientMessageKind, Fired, Log, POLL_INTERVAL, Shared, StatusUpdate,
    WalPassed,
};

/// Read at once: a walsender's largest message and some.
const CHUNK_BYTES: usize = 256 * 1024;

/// Neighbouring WAL pieces within this time count as one in the log.
const JOIN_WITHIN: Duration = Duration::from_millis(1);

/// The two sockets and what is to happen to them.
pub(super) struct Connection {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    closing: AtomicBool,
    stalled: Mutex<bool>,
    /// Requests for encryption that the client sent and the server will answer.
    encryption_requests: AtomicUsize,
}

/// A fault's place within a chunk.
struct Planned {
    offset: usize,
    at: At,
    action: Action,
}

impl Connection {
    /// Starts both threads.
    pub(super) fn start(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let mut log = shared.lock();
        let connection = Arc::new(Self {
            number: log.connections.len(),
            client,
            server,
            closing: AtomicBool::new(false),
            stalled: Mutex::new(false),
            encryption_requests: AtomicUsize::new(0),
        });
        log.connections.push(Arc::clone(&connection));
        drop(log);
        let (down, down_shared) = (Arc::clone(&connection), Arc::clone(shared));
        thread::spawn(move || down.server_to_client(&down_shared));
        let up_shared = Arc::clone(shared);
        thread::spawn(move || connection.client_to_server(&up_shared));
    }

    /// Closes both sides.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let _ = (self.client.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
    }

    /// Ends a stall.
    pub(super) fn resume(&self) {
        self.set_stalled(false);
    }

    fn set_stalled(&self, stalled: bool) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = stalled;
    }

    fn is_stalled(&self) -> bool {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn client_to_server(&self, shared: &Shared) {
        let mut frames = ClientFrames::default();
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(len @ 1..) = (&self.client).read(&mut buffer) {
            let chunk = &buffer[..len];
            let when = Instant::now();
            for frame in frames.walk(chunk) {
                self.note(frame, when, shared);
            }
            if (&self.server).write_all(chunk).is_err() {
                break;
            }
        }
        self.log_message(&mut shared.lock(), Instant::now(), ClientMessageKind::Closed);
        // The client is gone, or has gone half: a stall has nobody left to bear it.
        self.closing.store(true, Ordering::Release);
        let _ = self.server.shutdown(Shutdown::Write);
    }

    fn note(&self, frame: ClientFrame, when: Instant, shared: &Shared) {
        let mut log = shared.lock();
        match frame {
            ClientFrame::EncryptionRequest => {
                self.encryption_requests.fetch_add(1, Ordering::AcqRel);
            }
            ClientFrame::Status(write, flush, apply, time, reply_requested) => {
                let connection = self.number;
                let status =
                    StatusUpdate { connection, when, write, flush, apply, time, reply_requested };
                log.statuses.push(status);
            }
            ClientFrame::Query(text) => {
                self.log_message(&mut log, when, ClientMessageKind::Query(text));
            }
            ClientFrame::CopyDone => self.log_message(&mut log, when, ClientMessageKind::CopyDone),
            ClientFrame::Terminate => {
                self.log_message(&mut log, when, ClientMessageKind::Terminate);
            }
            ClientFrame::Other => {}
        }
    }

    fn log_message(&self, log: &mut Log, when: Instant, kind: ClientMessageKind) {
        log.messages.push(ClientMessage { connection: self.number, when, kind });
    }

    fn server_to_client(&self, shared: &Shared) {
        let mut frames = ServerFrames::default();
        let mut words = shared.without_words.load(Ordering::Acquire).then(Words::default);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut passed: u64 = 0;
        // Bytes left to be passed on one at a time, and the pause after each.
        let mut dribble = (0, Duration::ZERO);
        'reading: while let Ok(len @ 1..) = (&self.server).read(&mut buffer) {
            let chunk = &mut buffer[..len];
            let answers = self.encryption_requests.swap(0, Ordering::AcqRel);
            frames.single_bytes += answers;
            let spans = frames.walk(chunk);
            if let Some(words) = &mut words {
                words.single_bytes += answers;
                words.rewrite(chunk);
            }
            let planned = self.plan(chunk, passed..passed + len as u64, &spans, shared);
            let mut from = 0;
            for fault in planned {
                if self.pass(&chunk[from..fault.offset], &mut dribble).is_err() {
                    break 'reading;
                }
                from = fault.offset;
                match fault.action {
                    Action::FlipBit(_) => {}
                    Action::Cut => break 'reading,
                    Action::Dribble { bytes, pause } => dribble = (bytes, pause),
                    Action::Delay(time) => self.wait(|since| since.elapsed() < time),
                    Action::Stall => {
                        self.set_stalled(true);
                        self.wait(|_| self.is_stalled());
                    }
                }
            }
            if self.pass(&chunk[from..], &mut dribble).is_err() {
                break;
            }
            passed += len as u64;
        }
        self.close();
    }

    /// Finds the faults that fire in a chunk, in order; flips are done here.
    fn plan(
        &self,
        chunk: &mut [u8],
        range: Range<u64>,
        spans: &[WalSpan],
        shared: &Shared,
    ) -> Vec<Planned> {
        let when = Instant::now();
        let mut log = shared.lock();
        for span in spans {
            log_wal(&mut log.wal, self.number, when, span);
        }
        let mut planned = Vec::new();
        for fault in log.faults.iter_mut().filter(|fault| fault.times > 0) {
            let Some(offset) = place(fault.at, &range, spans) else { continue };
            fault.times -= 1;
            planned.push(Planned { offset, at: fault.at, action: fault.action });
        }
        planned.sort_by_key(|fault| fault.offset);
        if let Some(cut) = planned.iter().position(|fault| fault.action == Action::Cut) {
            // What lies behind the cut doesn't happen on this connection.
            for fault in planned.drain(cut + 1..) {
                let armed = |f: &&mut super::Fault| f.at == fault.at && f.action == fault.action;
                if let Some(again) = log.faults.iter_mut().find(armed) {
                    again.times += 1;
                }
            }
        }
        for fault in &planned {
            if let Action::FlipBit(bit) = fault.action {
                chunk[fault.offset] ^= 1 << (bit & 7);
            }
            let (at, action) = (fault.at, fault.action);
            log.fired.push(Fired { connection: self.number, when, at, action });
        }
        planned
    }

    fn pass(&self, bytes: &[u8], dribble: &mut (u64, Duration)) -> std::io::Result<()> {
        let single = usize::try_from(dribble.0).unwrap_or(usize::MAX).min(bytes.len());
        for byte in &bytes[..single] {
            (&self.client).write_all(std::slice::from_ref(byte))?;
            dribble.0 -= 1;
            if !dribble.1.is_zero() {
                thread::sleep(dribble.1);
            }
        }
        (&self.client).write_all(&bytes[single..])
    }

    fn wait(&self, goes_on: impl Fn(Instant) -> bool) {
        let since = Instant::now();
        while goes_on(since) && !self.is_closing() {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Where in the chunk that covers `range` of the connection's bytes a fault lies.
fn place(at: At, range: &Range<u64>, spans: &[WalSpan]) -> Option<usize> {
    match at {
        At::Byte(byte) => {
            range.contains(&byte).then(|| usize::try_from(byte - range.start).ok()).flatten()
        }
        At::Lsn(lsn) => spans.iter().find_map(|span| {
            let within = usize::try_from(lsn.checked_sub(span.lsn)?).ok()?;
            (within < span.len).then_some(span.offset + within)
        }),
    }
}

fn log_wal(wal: &mut Vec<WalPassed>, connection: usize, when: Instant, span: &WalSpan) {
    let end = span.lsn + span.len as u64;
    if let Some(last) = wal.last_mut()
        && last.connection == connection
        && last.end == span.lsn
        && when.duration_since(last.when) < JOIN_WITHIN
    {
        last.end = end;
    } else if span.len > 0 {
        wal.push(WalPassed { connection, when, start: span.lsn, end });
    }
}
