//! `strftime_now`: the date in UTC, as Python's `strftime` writes it in the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Failure;
use super::meter::Meter;

/// More bytes than any directive writes.
const LONGEST: usize = 32;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment in seconds since 1970, in UTC. transformers reads the local time; a server's answers are not to
/// depend on where it stands, and servers are set to UTC as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) i64);

impl Moment {
    /// Now, in UTC.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |since| since.as_secs() as i64))
    }

    pub(super) fn format(self, format: &str, meter: &Meter) -> Result<String, Failure> {
        let directives = format.matches('%').count();
        meter.bytes(format.len().saturating_add(directives.saturating_mul(LONGEST)))?;
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let weekday = (days + 4).rem_euclid(7) as usize;
        let of_year = days - days_of(year, 1, 1);
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[weekday]);
        let half = if hour < 12 { "AM" } else { "PM" };
        let hour12 = (hour + 11) % 12 + 1;
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = chars.next();
            // glibc's flag for numbers without padding.
            let bare = directive == Some('-');
            if bare {
                directive = chars.next();
            }
            let width = |number: i64, width: usize| {
                if bare { number.to_string() } else { format!("{number:0width$}") }
            };
            text.push_str(&match directive {
                Some('Y') => year.to_string(),
                Some('y') => width(year.rem_euclid(100), 2),
                Some('m') => width(month, 2),
                Some('d') => width(day, 2),
                Some('e') if bare => day.to_string(),
                Some('e') => format!("{day:2}"),
                Some('B') => month_name.to_owned(),
                Some('b' | 'h') => month_name[..3].to_owned(),
                Some('A') => day_name.to_owned(),
                Some('a') => day_name[..3].to_owned(),
                Some('H') => width(hour, 2),
                Some('I') => width(hour12, 2),
                Some('M') => width(minute, 2),
                Some('S') => width(second, 2),
                Some('f') => "000000".to_owned(),
                Some('p') => half.to_owned(),
                Some('j') => width(of_year + 1, 3),
                Some('w') => weekday.to_string(),
                Some('u') => if weekday == 0 { 7 } else { weekday }.to_string(),
                Some('U') => width((of_year + 7 - weekday as i64) / 7, 2),
                Some('W') => width((of_year + 7 - (weekday as i64 + 6) % 7) / 7, 2),
                Some('F') => format!("{year}-{month:02}-{day:02}"),
                Some('D' | 'x') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('T' | 'X') => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('R') => format!("{hour:02}:{minute:02}"),
                Some('c') => format!(
                    "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
                    &day_name[..3],
                    &month_name[..3]
                ),
                Some('z' | 'Z') => String::new(),
                Some('%') => "%".to_owned(),
                Some('n') => "\n".to_owned(),
                Some('t') => "\t".to_owned(),
                other => {
                    let directive = other.map(String::from).unwrap_or_default();
                    return Err(Failure::new(format!("`strftime_now` does not know `%{directive}`")));
                }
            });
        }
        Ok(text)
    }
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date so many days from 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
