//! `seawall gaps`

use std::io::{self, Write};
use std::sync::Arc;

use archive::{ArchiveError, Catalogue, Missing};
use disk::RealFiles;
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::GapsArgs;
use crate::observer::size;

/// What a hole is that nothing is recorded of.
const UNEXPLAINED: &str = "nothing is recorded of it: files were removed, or never copied";

pub(crate) fn run(args: &GapsArgs) -> Result<(), Failure> {
    let files = Arc::new(RealFiles::new(args.archive.clone()));
    let failed = |error: ArchiveError| {
        Failure::from(error).of(&format!("the archive {}", args.archive.display()))
    };
    let missing =
        Catalogue::open(files).and_then(|catalogue| catalogue.missing(&catalogue.survey()?));
    let missing = missing.map_err(failed)?;
    let lines: Vec<String> = if args.json {
        missing.iter().map(|missing| as_json(missing).to_string()).collect()
    } else if missing.is_empty() {
        vec!["no WAL is missing between the archive's first segment and its last".to_owned()]
    } else {
        missing.iter().map(as_text).collect()
    };
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}

pub(crate) fn as_text(missing: &Missing) -> String {
    let Missing { timeline, from, to, gap } = missing;
    let bytes = size(to.saturating_since(*from) as f64);
    let why = match gap {
        Some(gap) => format!("{} (found {})", gap.reason, gap.found),
        None => UNEXPLAINED.to_owned(),
    };
    format!("timeline {timeline}: {from} to {to}, {bytes}: {why}")
}

pub(crate) fn as_json(missing: &Missing) -> Value {
    let gap = missing.gap.as_ref();
    json!({
        "timeline": missing.timeline.as_u32(),
        "from": missing.from.to_string(),
        "to": missing.to.to_string(),
        "to_timeline": gap.map_or(missing.timeline, |gap| gap.to_timeline).as_u32(),
        "reason": gap.map(|gap| gap.reason.as_str()),
        "found": gap.map(|gap| gap.found.as_str()),
    })
}
