//! JSON on standard output.

use std::fmt::Write as _;

use serde::Serialize;

use crate::failure::is_plain;

const INVARIANT: &str = "text and numbers have a JSON form";

/// Returns JSON on several lines.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string_pretty(value).expect(INVARIANT)) + "\n"
}

/// Returns JSON on one line.
pub(crate) fn line(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string(value).expect(INVARIANT)) + "\n"
}

/// Escapes characters in JSON that could control a terminal. They occur only inside strings.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || is_plain(character) {
            out.push(character);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
    }
    out
}
