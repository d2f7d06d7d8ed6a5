//! Takes the time, the priority and the name of the machine off a line, in whatever order a tool put them.

use super::record::{Record, message};
use crate::domain::time::Timestamp;
use std::borrow::Cow;

/// Most prefixes that one line has.
const MAX_PREFIXES: usize = 8;

pub(super) fn parse(line: &str) -> Record<'_> {
    let mut record = Record::default();
    let mut rest = line.trim_end();
    if let Some((head, text)) = raw(rest) {
        return Record { text: message(text), ..head };
    }
    for _ in 0..MAX_PREFIXES {
        let start = rest.trim_start();
        let next = level(start, &mut record)
            .or_else(|| decoded_level(start, &mut record))
            .or_else(|| bracket(start, &mut record))
            .or_else(|| time(start, &mut record))
            .or_else(|| machine(start, &mut record));
        let Some(next) = next else { break };
        rest = next;
    }
    record.text = Cow::Borrowed(rest.trim_start());
    record
}

/// `6,3964,206764307,-;text`: priority, sequence, microseconds since boot, flags.
fn raw(line: &str) -> Option<(Record<'_>, &str)> {
    let (head, text) = line.split_once(';')?;
    let mut fields = head.split(',');
    let mut next = || fields.next().filter(|field| field.bytes().all(|byte| byte.is_ascii_digit()));
    let priority: u16 = next()?.parse().ok()?;
    let (sequence, boot_us) = (next()?.parse().ok()?, next()?.parse().ok()?);
    fields.next()?;
    let priority = Some(u8::try_from(priority & 0xff).unwrap_or_default());
    Some((Record { priority, sequence: Some(sequence), boot_us: Some(boot_us), ..Record::default() }, text))
}

/// `<6>`.
fn level<'a>(text: &'a str, record: &mut Record<'_>) -> Option<&'a str> {
    let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
    record.priority = Some(number.parse().ok()?);
    Some(rest)
}

/// `kern  :warn  : `, as `dmesg -x` writes it.
fn decoded_level<'a>(text: &'a str, record: &mut Record<'_>) -> Option<&'a str> {
    const FACILITIES: [&str; 12] =
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
    const LEVELS: [(&str, u8); 10] = [
        ("emerg", 0),
        ("alert", 1),
        ("crit", 2),
        ("err", 3),
        ("error", 3),
        ("warn", 4),
        ("warning", 4),
        ("notice", 5),
        ("info", 6),
        ("debug", 7),
    ];
    let (facility, rest) = text.split_once(':')?;
    let (level, rest) = rest.split_once(':')?;
    let facility = (0..).zip(FACILITIES).find(|(_, name)| *name == facility.trim_end()).map(|(number, _)| number)?;
    let level = LEVELS.iter().find(|(name, _)| *name == level.trim()).map(|(_, level)| *level)?;
    record.priority = Some(facility * 8 + level);
    Some(rest)
}

/// `[  123.456789]`, `[Sun Feb 23 16:24:18 2025]`, `[T1234]`, `[    C1]`, `[...]`, with or without a colon behind it.
fn bracket<'a>(text: &'a str, record: &mut Record<'_>) -> Option<&'a str> {
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    let inside = inside.trim();
    if let Some(boot_us) = boot_us(inside) {
        record.boot_us = Some(boot_us);
    } else if let Some(time) = calendar(inside).or_else(|| iso(inside)) {
        record.time = Some(time);
    } else if !is_caller(inside) && inside != "..." {
        return None;
    }
    Some(rest.strip_prefix(':').unwrap_or(rest))
}

fn boot_us(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(seconds) && digits(fraction)).then_some(())?;
    let micros: u64 = format!("{:0<6}", fraction).get(..6)?.parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

/// The task or processor that printed.
fn is_caller(text: &str) -> bool {
    let number = text.strip_prefix(['T', 'C']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// `Sun Feb 23 16:24:18 2025`, as `dmesg -T` writes the machine's local time: there is no zone, so it is taken for UTC.
fn calendar(text: &str) -> Option<Timestamp> {
    let mut words = text.split_whitespace().skip(1);
    let month = month(words.next()?)?;
    let day: u32 = words.next()?.parse().ok()?;
    let (clock, year) = (words.next()?, words.next()?);
    Timestamp::parse_rfc3339(&format!("{year}-{month:02}-{day:02}T{clock}Z"))
}

fn month(word: &str) -> Option<usize> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    MONTHS.iter().position(|name| *name == word).map(|index| index + 1)
}

/// `2025-01-21T04:41:44,283302+00:00` and the like: a comma for the point, a zone without its colon, a blank for the T,
/// no zone at all (UTC).
fn iso(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 19 && text.is_ascii() && bytes[4] == b'-' && bytes[7] == b'-' && bytes[13] == b':';
    shaped.then_some(())?;
    let (date, clock) = (&text[..10], text[11..].replace(',', "."));
    let at_sign = clock.rfind(['+', '-', 'Z', 'z']);
    let zone = match at_sign.map(|at| &clock[at..]) {
        None => "Z".to_owned(),
        Some(zone) if zone.len() == 5 => format!("{}:{}", &zone[..3], &zone[3..]),
        Some(zone) => zone.to_owned(),
    };
    let clock = at_sign.map_or(clock.as_str(), |at| &clock[..at]);
    Timestamp::parse_rfc3339(&format!("{date}T{clock}{zone}"))
}

/// `May 19 07:08:57`, which has no year and is only taken off; an ISO time; `Tue 2025-01-21 04:41:44 UTC`.
fn time<'a>(text: &'a str, record: &mut Record<'_>) -> Option<&'a str> {
    let (word, rest) = text.split_once(' ')?;
    if let Some(time) = iso(word) {
        record.time = Some(time);
        return Some(rest);
    }
    if month(word).is_some() {
        let (day, rest) = rest.trim_start().split_once(' ')?;
        let (clock, rest) = rest.trim_start().split_once(' ')?;
        return (day.parse::<u8>().is_ok() && is_clock(clock)).then_some(rest);
    }
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let (date, after_date) = DAYS.contains(&word).then_some(rest)?.split_once(' ')?;
    let (clock, after_clock) = after_date.split_once(' ')?;
    let (zone, rest) = after_clock.split_once(' ')?;
    is_clock(clock).then_some(())?;
    // Other zones have names that many share.
    record.time = if zone == "UTC" { iso(&format!("{date}T{clock}Z")) } else { None };
    Some(rest)
}

fn is_clock(word: &str) -> bool {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'));
    digits && word.bytes().filter(|byte| *byte == b':').count() == 2
}

/// `kernel: ` or `gpu-01 kernel: `. Another program's name stays, so that its line begins as no line of the kernel does.
fn machine<'a>(text: &'a str, record: &mut Record<'a>) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix("kernel: ") {
        return Some(rest);
    }
    let (host, rest) = text.split_once(' ')?;
    let rest = rest.strip_prefix("kernel: ")?;
    record.host = (!host.ends_with(':')).then_some(host);
    record.host.map(|_| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tools_line_is_the_same_message() {
        let text = "NVRM: Xid (PCI:0000:38:00): 13, x";
        let boot = |us| Record { boot_us: Some(us), ..Record::default() };
        let wall = |text: &str| Record { time: Timestamp::parse_rfc3339(text), ..Record::default() };
        for (prefix, expected) in [
            ("", Record::default()),
            ("kernel: ", Record::default()),
            ("[...] ", Record::default()),
            ("[430954.509105] ", boot(430_954_509_105)),
            ("[    2.5] ", boot(2_500_000)),
            ("<6>[    2.962781] ", Record { priority: Some(6), ..boot(2_962_781) }),
            ("kern  :warn  : [  12.000001] ", Record { priority: Some(4), ..boot(12_000_001) }),
            ("user  :notice: [  12.000001] ", Record { priority: Some(13), ..boot(12_000_001) }),
            ("[   12.000001][  T123] ", boot(12_000_001)),
            ("[   12.000001][    C1] ", boot(12_000_001)),
            ("[Sun Feb 23 16:24:18 2025] ", wall("2025-02-23T16:24:18Z")),
            ("[Sun Dec  1 14:54:40 2024] ny2 kernel: ", Record { host: Some("ny2"), ..wall("2024-12-01T14:54:40Z") }),
            (
                "kern  :warn  : 2025-01-21T04:41:44,283302+00:00 ",
                Record { priority: Some(4), ..wall("2025-01-21T04:41:44.283302Z") },
            ),
            ("2025-01-21T05:41:44+0100 ny2 kernel: ", Record { host: Some("ny2"), ..wall("2025-01-21T04:41:44Z") }),
            ("2025-01-21T04:41:44.5-05:00 kernel: ", wall("2025-01-21T09:41:44.5Z")),
            (
                "Tue 2025-01-21 04:41:44 UTC ny2 kernel: ",
                Record { host: Some("ny2"), ..wall("2025-01-21T04:41:44Z") },
            ),
            (
                "[2023-06-22 21:55:31.352444][5975153.869131] ",
                Record { boot_us: Some(5_975_153_869_131), ..wall("2023-06-22T21:55:31.352444Z") },
            ),
            (
                "May 19 07:08:57 ip-26 kernel: [680111.646286] ",
                Record { host: Some("ip-26"), ..boot(680_111_646_286) },
            ),
            ("6,3964,206764307,-;", Record { priority: Some(6), sequence: Some(3964), ..boot(206_764_307) }),
            (
                "12,3965,206764309,c,caller=T9;",
                Record { priority: Some(12), sequence: Some(3965), ..boot(206_764_309) },
            ),
        ] {
            let line = format!("{prefix}{text}\r\n");
            assert_eq!(parse(&line), Record { text: text.into(), ..expected }, "{prefix}");
        }
    }

    #[test]
    fn other_programs_lines_keep_their_names() {
        for line in
            ["May 19 07:08:57 ny2 sshd[12]: NVRM: Xid", "May 19 07:08:57 ny2 sudo: NVRM: Xid", "a: kernel: NVRM: Xid"]
        {
            assert!(!parse(line).text.starts_with("NVRM"), "{line}");
        }
        for line in
            ["", "[", "[]", "<>", "<x>a", "1,2;", ";;;", "Jan", "[99999999999999999999.1] a", "[T] a", "Mon a b c d"]
        {
            assert_eq!(parse(line).text, line, "{line}");
        }
    }
}
