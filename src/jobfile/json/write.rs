//! Values back to text: whole, or cut short for a message.

use super::Value;

/// The value as compact JSON, numbers as they were written.
pub fn to_text(value: &Value) -> String {
    let mut out = Out { text: String::new(), room: usize::MAX };
    out.value(value);
    out.text
}

/// The value as compact JSON of at most `limit` characters; the last is `…` when something is left out.
pub fn shorten(value: &Value, limit: usize) -> String {
    cut(limit, |out| out.value(value))
}

/// A text in JSON's quotes and escapes, of at most `limit` characters.
pub fn quote(text: &str, limit: usize) -> String {
    cut(limit, |out| out.string(text))
}

fn cut(limit: usize, write: impl FnOnce(&mut Out)) -> String {
    // One more than wanted tells whether anything is left out.
    let mut out = Out { text: String::new(), room: limit + 1 };
    write(&mut out);
    if out.room > 0 {
        return out.text;
    }
    let mut text: String = out.text.chars().take(limit.saturating_sub(1)).collect();
    text.push('…');
    text
}

/// Text with room for so many more characters: what does not fit is dropped, and nothing is visited for it.
struct Out {
    text: String,
    room: usize,
}

impl Out {
    fn push(&mut self, text: &str) {
        for character in text.chars().take(self.room) {
            self.text.push(character);
            self.room -= 1;
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.push("null"),
            Value::Bool(value) => self.push(if *value { "true" } else { "false" }),
            Value::Number(text) => self.push(text),
            Value::String(text) => self.string(text),
            Value::Array(nodes) => self.entries('[', ']', nodes, |out, node| out.value(&node.value)),
            Value::Object(members) => self.entries('{', '}', members, |out, member| {
                out.string(&member.key);
                out.push(":");
                out.value(&member.node.value);
            }),
        }
    }

    fn entries<T>(&mut self, open: char, close: char, entries: &[T], write: impl Fn(&mut Self, &T)) {
        self.push(open.encode_utf8(&mut [0; 4]));
        for (position, entry) in entries.iter().enumerate() {
            if self.room == 0 {
                return;
            }
            if position > 0 {
                self.push(",");
            }
            write(self, entry);
        }
        self.push(close.encode_utf8(&mut [0; 4]));
    }

    fn string(&mut self, text: &str) {
        self.push("\"");
        for character in text.chars() {
            if self.room == 0 {
                return;
            }
            match character {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                // All of C0 and C1: messages go to terminals.
                control if control.is_control() => self.push(&format!("\\u{:04x}", u32::from(control))),
                other => self.push(other.encode_utf8(&mut [0; 4])),
            }
        }
        self.push("\"");
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::{quote, shorten, to_text};

    #[test]
    fn values_survive_writing() {
        let text = r#"{"a":[1,1.0,1e400,-0],"b":{"c":"x\"\\\n\u0001é"},"d":null,"e":[],"f":{},"g":true}"#;
        let value = read(text).expect("valid").root.value;
        assert_eq!(to_text(&value), text);
    }

    #[test]
    fn long_values_are_cut() {
        let value = read(&format!("[{}1]", "1,".repeat(100_000))).expect("valid").root.value;
        assert_eq!(shorten(&value, 8), "[1,1,1,…");
        assert_eq!(shorten(&read("[1,1,1]").expect("valid").root.value, 7), "[1,1,1]");
        assert_eq!(quote("ab\u{1b}[0m", 80), "\"ab\\u001b[0m\"");
    }
}
