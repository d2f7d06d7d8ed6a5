//! Small steps through a text, for parsers.

/// At most `bytes` of `text`, cut between characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What follows the first `mark`.
pub fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.find(mark).map(|at| &text[at + mark.len()..])
}

/// What is between the first `open` and the next `close`.
pub fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = after(text, open)?;
    Some(&rest[..rest.find(close)?])
}

/// The decimal number that `text` begins with, after blanks, and what follows.
pub fn number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// The number as 32 bits, without what follows.
pub fn small(text: &str) -> Option<u32> {
    number(text).and_then(|(number, _)| u32::try_from(number).ok())
}

/// The number after the first `mark`.
pub fn small_after(text: &str, mark: &str) -> Option<u32> {
    after(text, mark).and_then(small)
}

/// The hexadecimal number, with or without `0x`, that `text` begins with.
pub fn hexadecimal(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    u64::from_str_radix(&text[..digits], 16).ok()
}

/// The first word, without a colon or comma behind it.
pub fn first(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default().trim_end_matches([':', ',', '.'])
}
