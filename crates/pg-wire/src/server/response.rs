//! What a server answers, as bytes.
//!
//! Each function appends whole messages. Text that would hold a NUL has it replaced, since a
//! C string ends there; a message longer than its length field can say is never made, as all are
//! made of bounded parts.

use crate::message::SqlState;

/// The types of columns (`catalog/pg_type.dat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`
    Text,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `oid`
    Oid,
}

impl ColumnType {
    /// Its oid, and the bytes that a value has; −1 if they vary.
    const fn facts(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Oid => (26, 4),
        }
    }
}

/// A column of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub of: ColumnType,
    /// The bytes that a value of the type has, which old servers don't always get right.
    pub len: i16,
    /// The type's modifier: −1, and 0 in some answers of old servers.
    pub modifier: i32,
}

impl<'a> Column<'a> {
    /// A column whose type has no modifier.
    #[must_use]
    pub const fn new(name: &'a str, of: ColumnType) -> Self {
        let (_, len) = of.facts();
        Self { name, of, len, modifier: -1 }
    }
}

/// An error that a client is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    severity: Severity,
    /// Which kind it is.
    pub sqlstate: SqlState,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Notice,
    Error,
    Fatal,
}

impl Refusal {
    /// The command fails; the connection goes on.
    #[must_use]
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// The connection ends.
    #[must_use]
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    /// Only something to be told.
    #[must_use]
    pub fn notice(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::error(sqlstate, message) }
    }

    /// With what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With more about it.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// Whether the connection ends.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.severity == Severity::Fatal
    }
}

/// Answers, one after another.
#[derive(Debug, Default)]
pub struct Responses {
    bytes: Vec<u8>,
}

impl Responses {
    /// What is there.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what is there: it was sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// One byte that is no message: the answer to a request for encryption.
    pub fn plain(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// AuthenticationOk.
    pub fn authentication_ok(&mut self) {
        self.message(b'R', |body| body.extend(0_u32.to_be_bytes()));
    }

    /// AuthenticationSASL with these mechanisms.
    pub fn authentication_sasl(&mut self, mechanisms: &[&str]) {
        self.message(b'R', |body| {
            body.extend(10_u32.to_be_bytes());
            for mechanism in mechanisms {
                text(body, mechanism);
            }
            body.push(0);
        });
    }

    /// AuthenticationSASLContinue.
    pub fn authentication_continue(&mut self, data: &[u8]) {
        self.message(b'R', |body| {
            body.extend(11_u32.to_be_bytes());
            body.extend(data);
        });
    }

    /// AuthenticationSASLFinal.
    pub fn authentication_final(&mut self, data: &[u8]) {
        self.message(b'R', |body| {
            body.extend(12_u32.to_be_bytes());
            body.extend(data);
        });
    }

    /// NegotiateProtocolVersion: the newest version that is spoken, as 14–18 give it (whole), and
    /// the protocol's options that aren't known.
    pub fn negotiate(&mut self, minor: u32, unknown: &[String]) {
        self.message(b'v', |body| {
            body.extend((3 << 16 | minor).to_be_bytes());
            body.extend(u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
            for option in unknown {
                text(body, option);
            }
        });
    }

    /// ParameterStatus.
    pub fn parameter(&mut self, name: &str, value: &str) {
        self.message(b'S', |body| {
            text(body, name);
            text(body, value);
        });
    }

    /// BackendKeyData.
    pub fn backend_key(&mut self, process_id: u32, key: &[u8]) {
        self.message(b'K', |body| {
            body.extend(process_id.to_be_bytes());
            body.extend(key);
        });
    }

    /// ReadyForQuery, outside a transaction.
    pub fn ready(&mut self) {
        self.message(b'Z', |body| body.push(b'I'));
    }

    /// RowDescription.
    pub fn columns(&mut self, columns: &[Column<'_>]) {
        self.message(b'T', |body| {
            body.extend(u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
            for column in columns {
                let (oid, _) = column.of.facts();
                text(body, column.name);
                // No table has it: no object, no number.
                body.extend([0; 6]);
                body.extend(oid.to_be_bytes());
                body.extend(column.len.to_be_bytes());
                body.extend(column.modifier.to_be_bytes());
                // As text.
                body.extend([0; 2]);
            }
        });
    }

    /// DataRow.
    pub fn row(&mut self, values: &[Option<&[u8]>]) {
        self.message(b'D', |body| {
            body.extend(u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
            for value in values {
                let len = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(0));
                body.extend(len.to_be_bytes());
                body.extend(value.unwrap_or_default());
            }
        });
    }

    /// CommandComplete.
    pub fn complete(&mut self, tag: &str) {
        self.message(b'C', |body| text(body, tag));
    }

    /// CopyBothResponse: the stream begins.
    pub fn copy_both(&mut self) {
        self.message(b'W', |body| body.extend([0; 3]));
    }

    /// CopyOutResponse.
    pub fn copy_out(&mut self) {
        self.message(b'H', |body| body.extend([0; 3]));
    }

    /// CopyDone.
    pub fn copy_done(&mut self) {
        self.message(b'c', |_| {});
    }

    /// CopyData.
    pub fn copy_data(&mut self, payload: &[u8]) {
        self.message(b'd', |body| body.extend(payload));
    }

    /// CopyData that begins with what kind it is of.
    pub fn copy_data_of(&mut self, kind: u8, payload: &[u8]) {
        self.message(b'd', |body| {
            body.push(kind);
            body.extend(payload);
        });
    }

    /// ErrorResponse or NoticeResponse.
    pub fn refusal(&mut self, refusal: &Refusal) {
        let (tag, severity) = match refusal.severity {
            Severity::Notice => (b'N', "NOTICE"),
            Severity::Error => (b'E', "ERROR"),
            Severity::Fatal => (b'E', "FATAL"),
        };
        self.message(tag, |body| {
            let mut field = |kind: u8, value: &str| {
                body.push(kind);
                text(body, value);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', &refusal.sqlstate.to_string());
            field(b'M', &refusal.message);
            if let Some(detail) = &refusal.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &refusal.hint {
                field(b'H', hint);
            }
            body.push(0);
        });
    }

    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.push(tag);
        let at = self.bytes.len();
        self.bytes.extend([0; 4]);
        fill(&mut self.bytes);
        let length = self.bytes.len().saturating_sub(at);
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        for (to, from) in self.bytes.iter_mut().skip(at).zip(length) {
            *to = from;
        }
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
    body.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BackendMessage, FrameHeader, Phase};

    /// The client's own parser reads what is written.
    fn check(write: impl FnOnce(&mut Responses), expect: &str) {
        let mut responses = Responses::default();
        write(&mut responses);
        let (header, body) =
            FrameHeader::split(responses.as_bytes(), Phase::Established).unwrap().unwrap();
        assert_eq!(FrameHeader::LEN + body.len(), responses.as_bytes().len(), "one message");
        let message = format!("{:?}", BackendMessage::parse(header.tag, body).unwrap());
        assert!(message.contains(expect), "{message}");
    }

    #[test]
    fn a_client_reads_every_answer() {
        check(Responses::authentication_ok, "Ok");
        check(|to| to.authentication_sasl(&["SCRAM-SHA-256"]), "[\"SCRAM-SHA-256\"]");
        check(|to| to.authentication_continue(b"r"), "SaslContinue([114])");
        check(|to| to.authentication_final(b"v"), "SaslFinal([118])");
        check(|to| to.negotiate(2, &["_pq_.x".to_owned()]), "newest_minor: 196610");
        check(|to| to.parameter("a", "b"), "name: \"a\", value: \"b\"");
        check(|to| to.backend_key(9, &[7; 32]), "process_id: 9");
        check(Responses::ready, "status: 73");
        check(|to| to.columns(&[Column::new("tli", ColumnType::Int8)]), "type_oid: 20");
        check(|to| to.row(&[Some(b"1"), None]), "[Some([49]), None]");
        check(|to| to.complete("COPY 0"), "COPY 0");
        check(Responses::copy_both, "CopyBothResponse");
        check(Responses::copy_out, "CopyOutResponse");
        check(Responses::copy_done, "CopyDone");
        check(|to| to.copy_data(b"k"), "CopyData([107])");
        check(|to| to.copy_data_of(b'd', b"k"), "CopyData([100, 107])");
        let refusal = Refusal::fatal(SqlState::SYNTAX_ERROR, "a\0b").hint("h").detail("d");
        check(|to| to.refusal(&refusal), "a?b");
    }
}
