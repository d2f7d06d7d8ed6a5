//! Text to values: one pass, recursive to a fixed depth, stopping at the first syntax error.

use super::{Member, Node, Value, number};

/// Deepest nesting of lists and objects. Keeps the stack small whatever the file holds.
pub const MAX_DEPTH: usize = 64;

/// A text that is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset of the first byte that cannot be.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
    /// What would be right there.
    pub allowed: String,
}

/// A text that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub root: Node,
    /// Byte offsets of commas after the last entry of a list or object.
    pub trailing_commas: Vec<usize>,
}

/// Reads one value and nothing after it but space and comments.
pub fn read(text: &str) -> Result<Document, SyntaxError> {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, trailing_commas: Vec::new() };
    reader.skip_space()?;
    let root = reader.value(0)?;
    reader.skip_space()?;
    if reader.at < reader.bytes.len() {
        return Err(reader.error("there is more text after the end of the job", "the end of the file"));
    }
    Ok(Document { root, trailing_commas: reader.trailing_commas })
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    trailing_commas: Vec<usize>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn error(&self, problem: &str, allowed: &str) -> SyntaxError {
        SyntaxError { at: self.at, problem: problem.to_owned(), allowed: allowed.to_owned() }
    }

    /// An error whose problem is simply what stands here.
    fn unexpected(&self, allowed: &str) -> SyntaxError {
        let rest = self.text.get(self.at..).unwrap_or("");
        let Some(first) = rest.chars().next() else {
            return self.error("the file ends too early", allowed);
        };
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(20).collect();
        let shown = match word.is_empty() {
            true if first.is_control() => first.escape_unicode().to_string(),
            true => first.to_string(),
            false => word,
        };
        self.error(&format!("`{shown}` cannot stand here"), allowed)
    }

    fn skip_space(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(b'/') => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), SyntaxError> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"//") {
            self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            return Ok(());
        }
        if !rest.starts_with(b"/*") {
            return Err(self.unexpected("a comment begins with // or /*"));
        }
        // From the third byte on, so that `/*/` does not close itself.
        let Some(length) = rest[2..].windows(2).position(|pair| pair == b"*/") else {
            return Err(self.error("this comment is never closed", "*/ at its end"));
        };
        self.at += 2 + length + 2;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let at = self.at;
        let value = match self.peek() {
            Some(b'{' | b'[') if depth >= MAX_DEPTH => {
                let problem = format!("lists and objects are nested more than {MAX_DEPTH} deep");
                return Err(self.error(&problem, &format!("at most {MAX_DEPTH} levels")));
            }
            Some(b'{') => self.object(depth + 1)?,
            Some(b'[') => self.array(depth + 1)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.literal()?,
        };
        Ok(Node { at, value })
    }

    fn literal(&mut self) -> Result<Value, SyntaxError> {
        const LITERALS: [(&str, Value); 3] =
            [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        for (word, value) in LITERALS {
            let rest = &self.bytes[self.at..];
            let ends = !rest.get(word.len()).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            if rest.starts_with(word.as_bytes()) && ends {
                self.at += word.len();
                return Ok(value);
            }
        }
        if self.peek() == Some(b'\'') {
            return Err(self.error("texts stand in double quotes, not in single ones", "a text in double quotes"));
        }
        Err(self.unexpected("a value: a text in double quotes, a number, true, false, null, [ or {"))
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        match number::scan(&self.bytes[self.at..]) {
            Ok(length) => {
                let text = self.text[self.at..self.at + length].to_owned();
                self.at += length;
                Ok(Value::Number(text))
            }
            Err(offset) => {
                self.at += offset;
                Err(self.unexpected("a number such as 12, -2 or 1.5, without leading zeros"))
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut nodes = Vec::new();
        self.at += 1;
        if self.is_empty(b']')? {
            return Ok(Value::Array(nodes));
        }
        loop {
            nodes.push(self.value(depth)?);
            if self.ends(b']', "a comma or ] after an entry of a list")? {
                return Ok(Value::Array(nodes));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut members = Vec::new();
        self.at += 1;
        if self.is_empty(b'}')? {
            return Ok(Value::Object(members));
        }
        loop {
            members.push(self.member(depth)?);
            if self.ends(b'}', "a comma or } after a value")? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn member(&mut self, depth: usize) -> Result<Member, SyntaxError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        let key_at = self.at;
        let key = self.string()?;
        self.skip_space()?;
        if self.peek() != Some(b':') {
            return Err(self.unexpected("a colon after a key"));
        }
        self.at += 1;
        self.skip_space()?;
        Ok(Member { key, key_at, node: self.value(depth)? })
    }

    /// After an entry: true when the list or object ends here. A comma before the end is stepped over and noted.
    fn ends(&mut self, bracket: u8, allowed: &str) -> Result<bool, SyntaxError> {
        self.skip_space()?;
        let comma_at = self.at;
        let comma = self.peek() == Some(b',');
        if comma {
            self.at += 1;
            self.skip_space()?;
        }
        if self.peek() == Some(bracket) {
            self.at += 1;
            self.trailing_commas.extend(comma.then_some(comma_at));
            return Ok(true);
        }
        if comma { Ok(false) } else { Err(self.unexpected(allowed)) }
    }

    /// Just after an opening bracket: true when nothing is in it.
    fn is_empty(&mut self, bracket: u8) -> Result<bool, SyntaxError> {
        self.skip_space()?;
        let empty = self.peek() == Some(bracket);
        self.at += usize::from(empty);
        Ok(empty)
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        loop {
            let run =
                self.bytes[self.at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
            text.push_str(&self.text[self.at..self.at + run]);
            self.at += run;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(b'\n' | b'\r') => {
                    return Err(self
                        .error("a text goes over the end of its line", "\\n for a line break, or a closing quote"));
                }
                Some(byte) => {
                    return Err(self.error("a control character stands in a text", &format!("\\u{byte:04x}")));
                }
                None => {
                    self.at = start;
                    return Err(self.error("this text is never closed", "a closing double quote"));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let allowed = r#"one of \" \\ \/ \b \f \n \r \t \uXXXX"#;
        let plain = match self.bytes.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("a backslash begins no known escape", allowed)),
        };
        self.at += 2;
        Ok(plain)
    }

    /// `\uXXXX`, or two of them that make one character.
    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let first = self.hex4(self.at)?;
        let code = if (0xd800..0xdc00).contains(&first) {
            let second = if self.bytes[self.at + 6..].starts_with(b"\\u") { self.hex4(self.at + 6)? } else { 0 };
            if !(0xdc00..0xe000).contains(&second) {
                return Err(
                    self.error("half of a surrogate pair stands alone", "both halves, or the character itself")
                );
            }
            self.at += 6;
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        let Some(character) = char::from_u32(code) else {
            return Err(self.error("half of a surrogate pair stands alone", "both halves, or the character itself"));
        };
        self.at += 6;
        Ok(character)
    }

    /// The four hexadecimal digits of the escape that begins at `at`.
    fn hex4(&self, at: usize) -> Result<u32, SyntaxError> {
        let digits = self.bytes.get(at + 2..at + 6).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        code.ok_or_else(|| self.error("\\u is not followed by four hexadecimal digits", "such as \\u00e9"))
    }
}
