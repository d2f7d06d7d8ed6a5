//! Numbers as text: their grammar, and which of them are integers. No floating point on the way, so that
//! `9007199254740993` stays what it is and `1e400` is merely too large.

/// What a number is as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    Exact(i128),
    /// Has a part after the decimal point that is not zero.
    Fraction,
    /// More than 30 digits: beyond every limit of ours.
    Huge,
}

/// Longest integer that is computed; longer ones are [`Integer::Huge`].
const MAX_DIGITS: i64 = 30;

/// Bytes of the JSON number at the start of `bytes`, or the offset at which it stops being one.
pub(super) fn scan(bytes: &[u8]) -> Result<usize, usize> {
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let digits = |at: &mut usize| {
        let start = *at;
        while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        if *at > start { Ok(()) } else { Err(*at) }
    };
    if bytes.get(at) == Some(&b'0') {
        at += 1;
        if bytes.get(at).is_some_and(u8::is_ascii_digit) {
            return Err(at);
        }
    } else {
        digits(&mut at)?;
    }
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        digits(&mut at)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        digits(&mut at)?;
    }
    Ok(at)
}

/// The integer that a number's text stands for; `None` when the text is not a JSON number.
pub fn integer(text: &str) -> Option<Integer> {
    if scan(text.as_bytes()) != Ok(text.len()) {
        return None;
    }
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = [whole, fraction].concat();
    let leading = all.trim_start_matches('0');
    let digits = leading.trim_end_matches('0');
    if digits.is_empty() {
        return Some(Integer::Exact(0));
    }
    let saturated = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
    let exponent = exponent.parse::<i64>().map_or(saturated, |value| value.clamp(i64::MIN / 2, i64::MAX / 2));
    let dropped = (leading.len() - digits.len()) as i64;
    // Power of ten that `digits` still has to be multiplied by; bounded by the file's size and the clamp above.
    let scale = exponent.saturating_add(dropped).saturating_sub(fraction.len() as i64);
    if scale < 0 {
        return Some(Integer::Fraction);
    }
    if scale.saturating_add(digits.len() as i64) > MAX_DIGITS {
        return Some(Integer::Huge);
    }
    let zeros = "0".repeat(usize::try_from(scale).unwrap_or(0));
    let value: i128 = [digits, &zeros].concat().parse().unwrap_or(i128::MAX);
    Some(Integer::Exact(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::{Integer, integer};

    #[test]
    fn integers_are_exact() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("0.000e9", 0),
            ("7", 7),
            ("-2", -2),
            ("1.0", 1),
            ("1.50e1", 15),
            ("1e3", 1000),
            ("1000e-3", 1),
            ("9007199254740993", 9_007_199_254_740_993),
            ("99999999999999999999", 99_999_999_999_999_999_999),
        ] {
            assert_eq!(integer(text), Some(Integer::Exact(value)), "{text}");
        }
    }

    #[test]
    fn others_are_told_apart() {
        for text in ["1.5", "1e-1", "0.1", "123e-99999999999999999999"] {
            assert_eq!(integer(text), Some(Integer::Fraction), "{text}");
        }
        for text in ["1e400", "-1e400", "1e99999999999999999999", &"9".repeat(1000)] {
            assert_eq!(integer(text), Some(Integer::Huge), "{text}");
        }
        for text in ["", "-", "01", "1.", ".5", "1e", "+1", "0x10", "1 ", "NaN"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }
}
