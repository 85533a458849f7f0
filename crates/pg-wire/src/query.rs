//! The answer to one command, put together from messages until the server is ready again.
//!
//! Rows and bytes are bounded: a server, or what claims to be one, can't make a client collect
//! without end. Notices and changed parameters that come between are kept for the caller, up to a
//! bound; they are never taken for the answer.

use std::collections::VecDeque;

use crate::message::{BackendMessage, Column, ServerMessage};

/// Most rows of an answer: every command that we send is answered by one.
pub const MAX_ROWS: usize = 1_000;

/// Most bytes of an answer: four of the longest messages there may be.
pub const MAX_BYTES: usize = 4 << 20;

/// What a column costs beside its bytes, so that rows of NULLs are bounded too.
const COLUMN_BYTES: usize = 32;

/// Most notices and parameters that wait for the caller; older ones are dropped first.
pub const MAX_PENDING_EVENTS: usize = 64;

/// A result: its columns and its rows, NULL as `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns; none where the answer has no rows at all.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

/// How a command was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// It is done, and these are its rows. The server is ready for the next.
    Rows(Rows),
    /// The stream begins: what follows is for [`crate::stream`].
    CopyBoth,
    /// It failed. After a fatal error the connection is gone; otherwise the server is ready for
    /// the next command.
    Error(Box<ServerMessage>),
}

/// Something that the server said beside the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// For a person.
    Notice(Box<ServerMessage>),
    /// A setting has changed.
    Parameter {
        /// The setting.
        name: String,
        /// Its value now.
        value: String,
    },
}

/// An answer that is none. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A message that doesn't belong into an answer.
    #[error("the server answered a command with an unexpected {message} message")]
    Unexpected {
        /// The message's name.
        message: &'static str,
    },
    /// A second result; no command that we send has two.
    #[error("the server answered one command with several results")]
    SeveralResults,
    /// More rows or bytes than an answer may have.
    #[error(
        "the server's answer is longer than {MAX_ROWS} rows or {MAX_BYTES} bytes: no answer to a \
         replication command is"
    )]
    TooLong,
    /// A message after the answer's end.
    #[error("the answer is complete already")]
    Finished,
}

/// Puts one command's answer together. Make a new one for each command.
#[derive(Clone, Debug, Default)]
pub struct QueryResult {
    result: Option<Rows>,
    bytes: usize,
    error: Option<Box<ServerMessage>>,
    events: VecDeque<Event>,
    finished: bool,
}

impl QueryResult {
    /// Waits for the answer to a command that was sent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message; gives the answer once it is complete.
    ///
    /// CopyDone and several CommandCompletes are passed over, so that the end of a stream can be
    /// read with this too: the rows are then those of [`crate::stream::EndOfTimeline`].
    ///
    /// # Errors
    /// A message that no answer has, or an answer without end.
    pub fn handle(&mut self, message: BackendMessage<'_>) -> Result<Option<Reply>, QueryError> {
        if self.finished {
            return Err(QueryError::Finished);
        }
        let outcome = self.step(message);
        self.finished = !matches!(outcome, Ok(None));
        outcome
    }

    /// The rows so far, of a command with several results; the next result may begin.
    ///
    /// # Errors
    /// If there is no result.
    pub fn take_result(&mut self) -> Result<Rows, QueryError> {
        self.result.take().ok_or(QueryError::Unexpected { message: "CommandComplete" })
    }

    /// The next notice or parameter that came between.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn step(&mut self, message: BackendMessage<'_>) -> Result<Option<Reply>, QueryError> {
        match message {
            BackendMessage::RowDescription(columns) => {
                if self.result.is_some() {
                    return Err(QueryError::SeveralResults);
                }
                self.result = Some(Rows { columns, rows: Vec::new() });
            }
            BackendMessage::DataRow(row) => self.row(&row)?,
            BackendMessage::CommandComplete { .. }
            | BackendMessage::EmptyQueryResponse
            | BackendMessage::NotificationResponse { .. }
            | BackendMessage::CopyDone => {}
            BackendMessage::CopyBothResponse => return Ok(Some(Reply::CopyBoth)),
            BackendMessage::ErrorResponse(error) if error.is_fatal() => {
                return Ok(Some(Reply::Error(error)));
            }
            // The first error is the cause; the server is ready only after ReadyForQuery.
            BackendMessage::ErrorResponse(error) => {
                self.error.get_or_insert(error);
            }
            BackendMessage::ReadyForQuery { .. } => {
                return Ok(Some(match self.error.take() {
                    Some(error) => Reply::Error(error),
                    None => Reply::Rows(self.result.take().unwrap_or_default()),
                }));
            }
            BackendMessage::NoticeResponse(notice) => self.event(Event::Notice(notice)),
            BackendMessage::ParameterStatus { name, value } => {
                let (name, value) = (name.into_owned(), value.into_owned());
                self.event(Event::Parameter { name, value });
            }
            other => return Err(QueryError::Unexpected { message: other.name() }),
        }
        Ok(None)
    }

    fn row(&mut self, row: &[Option<&[u8]>]) -> Result<(), QueryError> {
        let result = self.result.as_mut().ok_or(QueryError::Unexpected { message: "DataRow" })?;
        let cost = row.iter().fold(0_usize, |sum, column| {
            sum.saturating_add(COLUMN_BYTES).saturating_add(column.map_or(0, <[u8]>::len))
        });
        self.bytes = self.bytes.saturating_add(cost);
        if self.bytes > MAX_BYTES || result.rows.len() >= MAX_ROWS {
            return Err(QueryError::TooLong);
        }
        result.rows.push(row.iter().map(|column| column.map(<[u8]>::to_vec)).collect());
        Ok(())
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= MAX_PENDING_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{FrameHeader, Phase};

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag], len.to_be_bytes().as_slice(), body].concat()
    }

    const DESCRIPTION: &[u8] = b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
    const ROW: &[u8] = b"\0\x01\0\0\0\x01x";
    const ERROR: &[u8] = b"SERROR\0VERROR\0C42704\0Mno\0\0";
    const FATAL: &[u8] = b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0";

    /// Feeds a stream that arrives in pieces of these sizes; the answer as text, and the events.
    fn run(stream: &[u8], pieces: &[usize]) -> (String, usize) {
        let mut query = QueryResult::new();
        let (mut buffer, mut rest) = (Vec::new(), stream);
        let mut pieces = pieces.iter().copied().cycle();
        let outcome = 'outcome: loop {
            if rest.is_empty() {
                break "incomplete".to_owned();
            }
            let (piece, later) = rest.split_at(pieces.next().unwrap().clamp(1, rest.len()));
            rest = later;
            buffer.extend_from_slice(piece);
            while let Some((header, body)) =
                FrameHeader::split(&buffer, Phase::Established).unwrap()
            {
                let message = BackendMessage::parse(header.tag, body).unwrap();
                match query.handle(message) {
                    Ok(None) => {}
                    Ok(Some(reply)) => break 'outcome format!("{reply:?}"),
                    Err(error) => break 'outcome format!("{error:?}"),
                }
                buffer.drain(..FrameHeader::LEN + header.len);
            }
        };
        (outcome, std::iter::from_fn(|| query.poll_event()).count())
    }

    #[track_caller]
    fn check(messages: &[(u8, &[u8])], expect: &str) {
        let stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| frame(*tag, body)).collect();
        let (outcome, _) = run(&stream, &[usize::MAX]);
        assert!(outcome.contains(expect), "{outcome}");
    }

    #[test]
    fn answers() {
        let (t, d) = ((b'T', DESCRIPTION), (b'D', ROW));
        let (c, z) = ((b'C', b"SELECT\0".as_slice()), (b'Z', b"I".as_slice()));
        check(&[t, d, c, z], "rows: [[Some([120])]]");
        check(&[c, z], "Rows(Rows { columns: [], rows: [] })");
        check(&[(b'W', &[0, 0, 0])], "CopyBoth");
        check(&[(b'c', b""), t, d, c, c, z], "rows: [[Some([120])]]");
        check(&[(b'E', ERROR), z], "Error(ServerMessage { severity: \"ERROR\", sqlstate: 42704");
        check(&[t, d, (b'E', ERROR), z], "Error(");
        check(&[(b'E', ERROR)], "incomplete");
        check(&[(b'E', FATAL)], "57P01");
        check(&[d], "Unexpected { message: \"DataRow\" }");
        check(&[t, t], "SeveralResults");
        check(&[(b'd', b"x")], "Unexpected { message: \"CopyData\" }");
        check(&[(b'R', &[0; 4])], "Unexpected { message: \"Authentication\" }");
    }

    #[test]
    fn answers_are_bounded() {
        let rows: Vec<_> = std::iter::repeat_n((b'D', ROW), MAX_ROWS + 1).collect();
        check(&[&[(b'T', DESCRIPTION)], &rows[..]].concat(), "TooLong");
        let nulls = [&[0xff, 0xff][..], &[0xff; 4 * 65_535]].concat();
        let rows: Vec<_> = std::iter::repeat_n((b'D', nulls.as_slice()), 3).collect();
        check(&[&[(b'T', DESCRIPTION)], &rows[..]].concat(), "TooLong");
    }

    #[test]
    fn nothing_follows_the_answer() {
        let mut query = QueryResult::new();
        let ready = || BackendMessage::ReadyForQuery { status: b'I' };
        assert!(query.handle(ready()).unwrap().is_some());
        assert_eq!(query.handle(ready()), Err(QueryError::Finished));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(pieces in prop::collection::vec(1_usize..20, 1..20)) {
            let messages = [(b'N', ERROR), (b'T', DESCRIPTION), (b'S', b"a\0b\0".as_slice()),
                (b'D', ROW), (b'C', b"SELECT\0"), (b'Z', b"I")];
            let stream: Vec<u8> = messages.iter().flat_map(|(t, b)| frame(*t, b)).collect();
            let whole = run(&stream, &[usize::MAX]);
            prop_assert_eq!(whole.1, 2);
            prop_assert_eq!(run(&stream, &pieces), whole);
        }
    }
}
