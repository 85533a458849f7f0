//! Times as pg_waldump prints them: in the machine's local time, with the zone's abbreviation
//! behind (`timestamptz_to_str`, `bin/pg_waldump/compat.c`; `strftime` with `%Z`).

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};
use wal_format::TimestampTz;

use crate::text::{Put, put};

/// A point in time in a record. As a field it is RFC 3339 text in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub TimestampTz);

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// From 1970-01-01 to 2000-01-01.
const EPOCH_SECONDS: i64 = 946_684_800;

impl Time {
    /// Seconds since 1970, and microseconds, divided as C divides: towards zero, from 2000 on.
    fn parts(self) -> (i64, i64) {
        let micros = self.0.0;
        let seconds = micros / MICROS_PER_SECOND;
        (seconds.saturating_add(EPOCH_SECONDS), micros % MICROS_PER_SECOND)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.0;
        let seconds = micros.div_euclid(MICROS_PER_SECOND).saturating_add(EPOCH_SECONDS);
        let mut text = Vec::new();
        put_civil(seconds, b'T', &mut text);
        let micros = micros.rem_euclid(MICROS_PER_SECOND);
        write!(f, "{}.{micros:06}Z", String::from_utf8_lossy(&text))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The time zone that times are printed in.
#[derive(Clone, Debug)]
pub struct Zone(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// UTC under this name, which is what an unknown zone is to libc.
    Utc(String),
    Rules(TimeZone),
}

/// Where libc looks zones up, and what it takes without `TZ`.
const ZONEINFO: &str = "/usr/share/zoneinfo";
const LOCALTIME: &str = "/etc/localtime";

impl Zone {
    /// UTC, named so.
    #[must_use]
    pub fn utc() -> Self {
        Self(Kind::Utc("UTC".into()))
    }

    /// The zone that glibc's `tzset` takes: `tz` is the environment's `TZ`, `read` gives a file's
    /// bytes if there is such a file.
    #[must_use]
    pub fn of_environment(
        tz: Option<&str>,
        mut read: impl FnMut(&Path) -> Option<Vec<u8>>,
    ) -> Self {
        let mut zone_file = |path: PathBuf| {
            let zone = TimeZone::tzif("local", &read(&path)?).ok()?;
            Some(Self(Kind::Rules(zone)))
        };
        let Some(tz) = tz else {
            return zone_file(LOCALTIME.into()).unwrap_or_else(Self::utc);
        };
        let tz = tz.strip_prefix(':').unwrap_or(tz);
        if tz.is_empty() {
            return Self::utc();
        }
        // An absolute name stays as it is.
        zone_file(Path::new(ZONEINFO).join(tz))
            .or_else(|| Self::posix(tz))
            .unwrap_or_else(|| Self::unknown(tz))
    }

    /// `EST5EDT` and the like; without rules for summer time, those of the United States hold.
    fn posix(tz: &str) -> Option<Self> {
        let zone = TimeZone::posix(tz)
            .or_else(|_| TimeZone::posix(&format!("{tz},M3.2.0,M11.1.0")))
            .ok()?;
        Some(Self(Kind::Rules(zone)))
    }

    /// What libc makes of what it can't make out: UTC, by the letters that it begins with.
    fn unknown(tz: &str) -> Self {
        /// A name is three letters at the least.
        const LEAST: usize = 3;
        let letters: String = tz.chars().take_while(char::is_ascii_alphabetic).collect();
        Self(Kind::Utc(if letters.len() >= LEAST { letters } else { String::new() }))
    }

    /// Appends `2024-02-03 04:05:06.789012 UTC`.
    pub(crate) fn put(&self, time: Time, out: &mut Vec<u8>) {
        let (seconds, micros) = time.parts();
        match &self.0 {
            Kind::Utc(name) => put_local(seconds, 0, micros, name, out),
            Kind::Rules(zone) => {
                // Times that a calendar of four-digit years doesn't have are as its last day.
                let bound = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
                let at = Timestamp::from_second(seconds).unwrap_or(bound);
                let info = zone.to_offset_info(at);
                let offset = i64::from(info.offset().seconds());
                put_local(seconds, offset, micros, info.abbreviation(), out);
            }
        }
    }
}

fn put_local(seconds: i64, offset: i64, micros: i64, zone: &str, out: &mut Vec<u8>) {
    put_civil(seconds.saturating_add(offset), b' ', out);
    // `.%06d`: before 2000 the remainder is negative.
    put!(out, if micros < 0 { ".-" } else { "." });
    let width = if micros < 0 { 5 } else { 6 };
    put_padded(micros.unsigned_abs(), width, out);
    put!(out, " ", zone);
}

/// A number with zeros before it, at least `width` digits.
fn put_padded(value: u64, width: u32, out: &mut Vec<u8>) {
    for power in (1..width).rev() {
        if value < 10_u64.saturating_pow(power) {
            out.push(b'0');
        }
    }
    value.put(out);
}

/// Appends the date and the time of day, so many seconds after 1970-01-01 00:00:00.
fn put_civil(seconds: i64, between: u8, out: &mut Vec<u8>) {
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY).unsigned_abs();
    if year < 0 {
        out.push(b'-');
    }
    put_padded(year.unsigned_abs(), 4, out);
    put!(out, "-");
    put_padded(month, 2, out);
    put!(out, "-");
    put_padded(day, 2, out);
    out.push(between);
    put_padded(of_day / 3600, 2, out);
    put!(out, ":");
    put_padded(of_day / 60 % 60, 2, out);
    put!(out, ":");
    put_padded(of_day % 60, 2, out);
}

/// Year, month and day so many days after 1970-01-01, in the Gregorian calendar: eras of 400 years
/// that begin on a 1 March, so that the leap day is the last.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "64 bits of microseconds are 110 million days at the most"
)]
fn civil(days: i64) -> (i64, u64, u64) {
    const ERA_DAYS: i64 = 146_097;
    const FROM_ERA_TO_1970: i64 = 719_468;
    let days = days + FROM_ERA_TO_1970;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &Zone, micros: i64, expected: &str) {
        let mut out = Vec::new();
        zone.put(Time(TimestampTz(micros)), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let utc = Zone::utc();
        check(&utc, 0, "2000-01-01 00:00:00.000000 UTC");
        check(&utc, 760_248_306_000_001, "2024-02-03 04:05:06.000001 UTC");
        check(&utc, 60 * 86_400_000_000 - 1, "2000-02-29 23:59:59.999999 UTC");
        check(&utc, 762_479_999_999_999, "2024-02-28 23:59:59.999999 UTC");
        check(&utc, i64::MAX, "294277-01-09 04:00:54.775807 UTC");
        for days in (-200_000..200_000).step_by(37) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days));
            let date = date.unwrap();
            let parts = (i64::from(date.year()), date.month().unsigned_abs().into());
            let parts = (parts.0, parts.1, date.day().unsigned_abs().into());
            assert_eq!(civil(days), parts);
        }
    }

    /// The server's own oddity: C divides towards zero, and prints what is left with its sign.
    #[test]
    fn before_2000_the_microseconds_are_negative() {
        check(&Zone::utc(), -1, "2000-01-01 00:00:00.-00001 UTC");
    }

    #[test]
    fn zones_are_libcs() {
        let none = |_: &Path| None;
        let zone = |tz: Option<&str>| Zone::of_environment(tz, none);
        check(&zone(None), 0, "2000-01-01 00:00:00.000000 UTC");
        check(&zone(Some("")), 0, "2000-01-01 00:00:00.000000 UTC");
        check(&zone(Some("EST5EDT")), 0, "1999-12-31 19:00:00.000000 EST");
        check(&zone(Some(":EST5EDT")), 16_000_000_000_000, "2000-07-04 00:26:40.000000 EDT");
        check(&zone(Some("<+0330>-3:30")), 0, "2000-01-01 03:30:00.000000 +0330");
        check(&zone(Some("Nowhere/Land")), 0, "2000-01-01 00:00:00.000000 Nowhere");
        check(&zone(Some("/x")), 0, "2000-01-01 00:00:00.000000 ");
        let mut asked = Vec::new();
        let _ = Zone::of_environment(Some("Europe/Berlin"), |path| {
            asked.push(path.to_path_buf());
            None
        });
        assert_eq!(asked, [Path::new("/usr/share/zoneinfo/Europe/Berlin")]);
    }
}
