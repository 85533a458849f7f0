//! `seawall status`: is it running, where does it stand, what is in the archive, what is wrong.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use archive::{ArchiveError, Catalogue, Missing, TimelineOverview};
use disk::RealFiles;
use serde_json::{Value, json};

use crate::cli::StatusArgs;
use crate::observer::size;
use crate::{Failure, board, quoting};

/// Back to the top, and clear what is there.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";
/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    loop {
        let status = Status::of(args)?;
        let mut text = if args.json { format!("{}\n", status.as_json()) } else { status.as_text() };
        if args.watch && !args.json {
            text.insert_str(0, CLEAR_SCREEN);
        }
        let written = io::stdout().write_all(text.as_bytes());
        written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
        if !args.watch {
            return Ok(());
        }
        sleep(WATCH_INTERVAL);
    }
}

struct Status {
    /// The archive's directory.
    archive: String,
    system: String,
    major: u32,
    receiver: Option<Value>,
    timelines: Vec<TimelineOverview>,
    missing: Vec<Missing>,
}

impl Status {
    fn of(args: &StatusArgs) -> Result<Self, Failure> {
        let shown = args.archive.display().to_string();
        let about = |error: ArchiveError| Failure::from(error).of(&format!("the archive {shown}"));
        let files = Arc::new(RealFiles::new(args.archive.clone()));
        let catalogue = Catalogue::open(files).map_err(about)?;
        let receiver = board::ask(&args.archive).map_err(|error| {
            Failure::failed(format!("the receiver of {shown} doesn't answer: {error}"))
        })?;
        let survey = catalogue.survey().map_err(|error| about(error.into()))?;
        let identity = catalogue.identity();
        let path = std::path::absolute(&args.archive).unwrap_or_else(|_| args.archive.clone());
        Ok(Self {
            archive: path.display().to_string(),
            system: identity.system_id.to_string(),
            major: identity.server_major,
            receiver,
            timelines: catalogue.overview(&survey).map_err(about)?,
            missing: catalogue.missing(&survey).map_err(about)?,
        })
    }

    fn restore_command(&self) -> String {
        quoting::restore_command(Path::new(&self.archive))
    }

    fn as_json(&self) -> Value {
        let timelines = self.timelines.iter().map(|timeline| {
            json!({
                "timeline": timeline.timeline.as_u32(),
                "from": timeline.from.to_string(),
                "to": timeline.to.to_string(),
                "segments": timeline.segments,
                "parent": timeline.parent.map(|(parent, _)| parent.as_u32()),
                "begins_at": timeline.parent.map(|(_, at)| at.to_string()),
                "lost_from": timeline.lost_from.map(|at| at.to_string()),
            })
        });
        let missing = self.missing.iter().map(crate::gaps::as_json);
        json!({
            "archive": self.archive,
            "system_identifier": self.system,
            "server_major": self.major,
            "running": self.receiver.is_some(),
            "receiver": self.receiver,
            "timelines": timelines.collect::<Vec<_>>(),
            "missing": missing.collect::<Vec<_>>(),
            "restore_command": self.restore_command(),
        })
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        _ = writeln!(
            text,
            "archive     {}, PostgreSQL {}, system {}",
            self.archive, self.major, self.system
        );
        match &self.receiver {
            Some(receiver) => describe(&mut text, receiver),
            None => {
                _ = writeln!(
                    text,
                    "receiver    none is running: start `seawall receive -A {} …`",
                    self.archive
                );
            }
        }
        for timeline in &self.timelines {
            let segments = timeline.segments;
            let plural = if segments == 1 { "" } else { "s" };
            _ = write!(
                text,
                "timeline {:<2} {} to {}, {segments} segment{plural}",
                timeline.timeline, timeline.from, timeline.to
            );
            if let Some((parent, at)) = timeline.parent {
                _ = write!(text, ", begins at {at} of timeline {parent}");
            }
            if let Some(lost) = timeline.lost_from {
                _ = write!(text, "; ALARM: what follows {lost} is a lost branch");
            }
            text.push('\n');
        }
        if self.timelines.is_empty() {
            text.push_str("timelines   no WAL is archived yet\n");
        }
        if self.missing.is_empty() {
            text.push_str("missing     nothing\n");
        }
        for missing in &self.missing {
            _ = writeln!(text, "missing     {}", crate::gaps::as_text(missing));
        }
        _ = writeln!(text, "to restore  {}", self.restore_command());
        text
    }
}

/// What a running receiver says of itself.
fn describe(text: &mut String, receiver: &Value) {
    let get = |key: &str| match &receiver[key] {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bytes = |key: &str| size(receiver[key].as_f64().unwrap_or(0.0));
    _ = writeln!(
        text,
        "receiver    {} since {}, process {}, started {}",
        get("state"),
        get("since"),
        get("process"),
        get("started")
    );
    let upstream = &receiver["upstream"];
    if let (Some(server), Some(version)) =
        (upstream["server"].as_str(), upstream["version"].as_str())
    {
        _ = writeln!(
            text,
            "upstream    {server}, PostgreSQL {version}, timeline {}, slot {}",
            upstream["timeline"],
            receiver["slot"].as_str().unwrap_or("none")
        );
    }
    if !receiver["received"].is_null() {
        _ = writeln!(
            text,
            "positions   received {}, proved {}, written {}, durable {}, upstream {}",
            get("received"),
            get("proved"),
            get("written"),
            get("durable"),
            get("upstream_end")
        );
        _ = writeln!(
            text,
            "lag         {}, {} s, at {}/s",
            bytes("lag_bytes"),
            get("lag_seconds"),
            bytes("bytes_per_second")
        );
    }
    let error = &receiver["last_error"];
    if let (Some(at), Some(error)) = (error["at"].as_str(), error["error"].as_str()) {
        _ = writeln!(text, "last error  {at}: {error}");
    }
}
