//! `seawall status`: is it running, where does it stand, what is in the archive, what is wrong.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use archive::{ArchiveError, Catalogue, Missing, TimelineOverview};
use backup::{Backups, RestoreHold, Window, quote_conf};
use disk::RealFiles;
use serde_json::{Value, json};

use crate::cli::StatusArgs;
use crate::failure::steady;
use crate::observer::size;
use crate::{Failure, board, list, restore, serve, timelines};

/// Back to the top, and clear what is there.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";
/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    loop {
        let status = steady(|| Status::of(args))?;
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
    /// What whoever serves the archive says.
    server: Option<Value>,
    timelines: Vec<TimelineOverview>,
    /// What can be recovered from the backups here.
    windows: Vec<Window>,
    missing: Vec<Missing>,
    /// What restored servers are kept for.
    holds: Vec<RestoreHold>,
    /// None where the archive's path can't stand in a server's configuration.
    restore_command: Option<String>,
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
        let server = serve::ask(&args.archive).map_err(|error| {
            Failure::failed(format!("the server of {shown} doesn't answer: {error}"))
        })?;
        let survey = catalogue.survey().map_err(|error| about(error.into()))?;
        let identity = catalogue.identity();
        let path = std::path::absolute(&args.archive).unwrap_or_else(|_| args.archive.clone());
        Ok(Self {
            archive: path.display().to_string(),
            system: identity.system_id.to_string(),
            major: identity.server_major,
            receiver,
            server,
            timelines: catalogue.overview(&survey).map_err(about)?,
            windows: list::widest_windows(&catalogue, &survey, &args.archive)?,
            missing: catalogue.missing(&survey).map_err(about)?,
            holds: Backups::open(&args.archive)?.restore_holds()?,
            restore_command: restore::restore_command(&args.archive, "--partial").ok(),
        })
    }

    fn restore_command(&self) -> Option<String> {
        let command = self.restore_command.as_ref()?;
        Some(format!("restore_command = {}", quote_conf(command)))
    }

    fn as_json(&self) -> Value {
        let timelines = self.timelines.iter().map(timelines::as_json);
        let missing = self.missing.iter().map(crate::gaps::as_json);
        json!({
            "archive": self.archive,
            "system_identifier": self.system,
            "server_major": self.major,
            "running": self.receiver.is_some(),
            "receiver": self.receiver,
            "server": self.server,
            "timelines": timelines.collect::<Vec<_>>(),
            "recoverable": self.windows.iter().map(list::window_as_json).collect::<Vec<_>>(),
            "missing": missing.collect::<Vec<_>>(),
            "holds": self.holds.iter().map(list::hold_as_json).collect::<Vec<_>>(),
            "restore_command": self.restore_command(),
            "next": self.next_steps(),
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
            None => text.push_str("receiver    none is running\n"),
        }
        if let Some(server) = &self.server {
            serve::describe(&mut text, server);
        }
        text += &timelines::as_text(&self.timelines);
        if self.missing.is_empty() {
            text.push_str("missing     nothing\n");
        }
        for missing in &self.missing {
            _ = writeln!(text, "missing     {}", crate::gaps::as_text(missing));
        }
        if self.windows.is_empty() {
            text.push_str(
                "recoverable nothing from here alone: `seawall backup` takes a base backup\n",
            );
        }
        for window in &self.windows {
            _ = writeln!(text, "recoverable {}", list::window_as_text(window));
        }
        for hold in &self.holds {
            _ = writeln!(text, "hold        {}", list::hold_as_text(hold));
        }
        let command = self.restore_command();
        let none = "the archive's path isn't UTF-8, which a server's configuration has to be";
        _ = writeln!(text, "to restore  {}", command.as_deref().unwrap_or(none));
        for step in self.next_steps() {
            _ = writeln!(text, "next        {step}");
        }
        text
    }

    /// What somebody does who has just been woken up; nothing if all is well.
    fn next_steps(&self) -> Vec<String> {
        let archive = &self.archive;
        let mut steps = Vec::new();
        match self.receiver.as_ref().map(|receiver| receiver["state"].as_str().unwrap_or_default())
        {
            None => steps.push(format!("start `seawall receive -A {archive} …`")),
            Some("connecting") => steps.push(
                "look whether the server is up and lets the receiver in: see the last error; it \
                 tries again by itself"
                    .to_owned(),
            ),
            Some("disk full") => steps.push(format!(
                "make room in {archive}: receiving goes on by itself, and the server's disk fills \
                 meanwhile"
            )),
            Some(_) => {}
        }
        if self.receiver.as_ref().is_some_and(|receiver| receiver["slot"]["state"] == "let go") {
            steps.push("wait until the receiver has caught up and made its slot anew".to_owned());
        }
        if !self.missing.is_empty() {
            steps.push(format!(
                "take a base backup; or fill what is missing, if some server or archive has it: \
                 `seawall archive-wal FILE -A {archive}`"
            ));
        }
        if self.timelines.iter().any(|timeline| timeline.lost_from.is_some()) {
            steps.push(
                "look for commits that the promoted server hasn't got (docs/OPERATIONS.md, lost \
                 branch)"
                    .to_owned(),
            );
        }
        steps
    }
}

/// What a running receiver says of itself.
fn describe(text: &mut String, receiver: &Value) {
    let get = |key: &str| match &receiver[key] {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bytes = |value: &Value| size(value.as_f64().unwrap_or(0.0));
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
            "upstream    {server}, PostgreSQL {version}, timeline {}",
            upstream["timeline"],
        );
    }
    let slot = &receiver["slot"];
    match (slot["name"].as_str(), slot["retained_bytes"].is_null()) {
        (None, _) => text.push_str("slot        none: an absence may leave a gap\n"),
        (Some(name), false) => {
            let retained = bytes(&slot["retained_bytes"]);
            _ = writeln!(text, "slot        {name}, keeps {retained} on the server");
        }
        (Some(name), true) if slot["state"] == "let go" => {
            _ = writeln!(text, "slot        {name}, ALARM: let go, since it kept too much");
        }
        (Some(name), true) => _ = writeln!(text, "slot        {name}"),
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
            bytes(&receiver["lag_bytes"]),
            get("lag_seconds"),
            bytes(&receiver["bytes_per_second"])
        );
    }
    let error = &receiver["last_error"];
    if let (Some(at), Some(error)) = (error["at"].as_str(), error["error"].as_str()) {
        _ = writeln!(text, "last error  {at}: {error}");
    }
    let alarms = receiver["events"].as_array().into_iter().flatten();
    for alarm in alarms.filter(|event| event["level"] == "ERROR") {
        if let (Some(at), Some(what)) = (alarm["at"].as_str(), alarm["text"].as_str()) {
            _ = writeln!(text, "alarm       {at}: {what}");
        }
    }
}
