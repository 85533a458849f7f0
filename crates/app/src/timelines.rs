//! The timelines of an archive, as a tree for people and as JSON for programs.

use std::fmt::Write as _;

use archive::TimelineOverview;
use serde_json::{Value, json};

/// What is archived of a timeline, for programs.
pub(crate) fn as_json(timeline: &TimelineOverview) -> Value {
    json!({
        "timeline": timeline.timeline.as_u32(),
        "from": timeline.from.to_string(),
        "to": timeline.to.to_string(),
        "segments": timeline.segments,
        "parent": timeline.parent.map(|(parent, _)| parent.as_u32()),
        "begins_at": timeline.parent.map(|(_, at)| at.to_string()),
        "lost_from": timeline.lost_from.map(|at| at.to_string()),
    })
}

/// Each timeline below the one that it comes from, then what of them is lost.
pub(crate) fn as_text(timelines: &[TimelineOverview]) -> String {
    if timelines.is_empty() {
        return "timelines   no WAL is archived yet\n".to_owned();
    }
    let mut text = String::new();
    let parent = |timeline: &TimelineOverview| {
        let is_here = |id| timelines.iter().any(|other| other.timeline == id);
        timeline.parent.map(|(parent, _)| parent).filter(|parent| is_here(*parent))
    };
    // Children have higher numbers than their parents: no path leads back.
    let roots = timelines.iter().rev().filter(|timeline| parent(timeline).is_none());
    let mut to_draw: Vec<_> = roots.map(|root| (0, root)).collect();
    let mut heading = "timelines";
    while let Some((depth, timeline)) = to_draw.pop() {
        _ = writeln!(text, "{heading:<12}{}", line(depth, timeline));
        heading = "";
        let id = timeline.timeline;
        let children = timelines.iter().rev().filter(|other| parent(other) == Some(id));
        to_draw.extend(children.map(|child| (depth + 1, child)));
    }
    for TimelineOverview { timeline, to, lost_from, .. } in timelines {
        if let Some(lost) = lost_from {
            _ = writeln!(
                text,
                "lost        timeline {timeline}: {lost} to {to}, which no newer timeline has"
            );
        }
    }
    text
}

fn line(depth: usize, timeline: &TimelineOverview) -> String {
    let TimelineOverview { timeline: id, from, to, segments, parent, .. } = timeline;
    let branch = if depth > 0 { "└ " } else { "" };
    let plural = if *segments == 1 { "" } else { "s" };
    let left = parent.map_or(String::new(), |(parent, at)| format!(", left {parent} at {at}"));
    let indent = 2 * depth.saturating_sub(1);
    format!("{:indent$}{branch}{id}: {from} to {to}, {segments} segment{plural}{left}", "")
}
