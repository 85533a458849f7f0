//! What the kernel tells about a process under `/proc/PID`.

use std::fs;

/// Peak resident memory of a process (`VmHWM`); none if it is gone.
pub fn peak_rss_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

/// The same without the pages of files that are mapped (`RssFile`): without the program's own,
/// that is, which all its processes share and the kernel can drop.
pub fn peak_own_bytes(pid: u32) -> Option<u64> {
    Some(peak_rss_bytes(pid)?.saturating_sub(status_bytes(pid, "RssFile:")?))
}

/// A line of proc(5)'s `status`, in kB there.
fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU time that a process has used, user and system, all threads; none if it is gone.
/// Resolution: the clock tick, 10 ms.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let fields = stat_fields(pid)?;
    // proc(5): utime is field 14, stime 15; the state, field 3, comes first here.
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of a test's run are far below 2^52")]
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Whether a process has ended: it doesn't exist, or is a zombie that nobody has reaped yet.
pub fn is_gone(pid: u32) -> bool {
    stat_fields(pid).is_none_or(|fields| matches!(fields[0].as_str(), "Z" | "X"))
}

/// The processes whose parent is `pid`.
pub fn children_of(pid: u32) -> Vec<u32> {
    let parent = pid.to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&child| stat_fields(child).is_some_and(|f| f.get(1) == Some(&parent))).collect()
}

/// `/proc/PID/stat` from the state on: the name before it may hold blanks and parentheses.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    (!fields.is_empty()).then_some(fields)
}
