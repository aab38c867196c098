//! What time it is, the wait for a time, and times as people and protocols write them: RFC 3339 for JSON and logs, the HTTP
//! date, and short spans for tables.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time that tunnels judge by: the kernel's, or in a simulation that of the simulation.
#[inline]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = crate::net::memory::now() {
        return now;
    }
    Instant::now()
}

/// How long ago that was, by [`now`].
#[inline]
pub fn since(moment: Instant) -> Duration {
    now().saturating_duration_since(moment)
}

/// Sleeps until `deadline`; for ever when there is none.
pub async fn sleep_until_or_never(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC, taken apart.
struct Civil {
    year: u64,
    /// 1 – 12.
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    micros: u32,
    /// Days since 1970-01-01, a Thursday.
    days: u64,
}

impl Civil {
    /// A time before 1970 counts as 1970: no clock of a running machine means it.
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Eras of 400 years that begin on 1 March, so that the leap day ends a year (Howard Hinnant's civil_from_days).
        let shifted = days + 719_468;
        let of_era = shifted % 146_097;
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + shifted / 146_097 * 400 + u64::from(month <= 2),
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            micros: since.subsec_micros(),
            days,
        }
    }
}

/// `2026-11-23T22:06:06.123456Z`: UTC, microseconds.
pub fn rfc3339(time: SystemTime) -> String {
    let c = Civil::of(time);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", c.year, c.month, c.day, c.hour, c.minute, c.second, c.micros)
}

/// `Mon, 23 Nov 2026 22:06:06 GMT`, as the `Date` header wants it (RFC 9110, section 5.6.7).
pub fn http_date(time: SystemTime) -> String {
    let c = Civil::of(time);
    let weekday = WEEKDAYS[(c.days % 7) as usize];
    let month = MONTHS[(c.month - 1) as usize];
    format!("{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT", c.day, c.year, c.hour, c.minute, c.second)
}

/// A span short enough for a table: `420µs`, `4.2ms`, `1.3s`, `3m12s`, `2h05m`, `3d04h`.
pub fn short_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.as_micros() == 0 => "0s".to_owned(),
        0 if span.as_micros() < 1_000 => format!("{}µs", span.as_micros()),
        0 => format!("{:.1}ms", span.as_secs_f64() * 1_000.0),
        1..10 => format!("{:.1}s", span.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
    }

    #[test]
    fn known_moments_are_written_as_the_calendar_has_them() {
        assert_eq!(rfc3339(at(0, 0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(at(951_782_400, 1)), "2000-02-29T00:00:00.000001Z");
        assert_eq!(rfc3339(at(951_868_799, 0)), "2000-02-29T23:59:59.000000Z");
        assert_eq!(rfc3339(at(1_709_251_200, 0)), "2024-03-01T00:00:00.000000Z");
        assert_eq!(rfc3339(at(4_107_542_400, 0)), "2100-03-01T00:00:00.000000Z");
        assert_eq!(rfc3339(at(1_795_471_566, 123_456)), "2026-11-23T22:06:06.123456Z");
    }

    #[test]
    fn a_time_before_the_epoch_does_not_panic() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_http_date_is_the_example_of_the_rfc() {
        assert_eq!(http_date(at(784_111_777, 0)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn spans_keep_two_units_at_most() {
        let span = |micros| short_span(Duration::from_micros(micros));
        assert_eq!(span(0), "0s");
        assert_eq!(span(420), "420µs");
        assert_eq!(span(4_200), "4.2ms");
        assert_eq!(span(1_300_000), "1.3s");
        assert_eq!(span(59_900_000), "59s");
        assert_eq!(span(192_000_000), "3m12s");
        assert_eq!(span(7_500_000_000), "2h05m");
        assert_eq!(span(273_600_000_000), "3d04h");
    }
}
