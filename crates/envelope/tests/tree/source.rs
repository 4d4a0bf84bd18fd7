//! What a Rust file declares, defines and imports, read from its tokens.

use std::collections::BTreeSet;

/// The facts about one file that decide what it imports. Tests and their modules are left out.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The child modules that have files of their own.
    pub(crate) children: BTreeSet<String>,
    /// The child modules that are compiled for tests only.
    pub(crate) test_children: BTreeSet<String>,
    /// The names of the items that the file defines.
    pub(crate) items: BTreeSet<String>,
    pub(crate) uses: Vec<Use>,
    /// The paths of two or more names in the code itself.
    pub(crate) paths: Vec<Vec<String>>,
    /// Every name in the code itself.
    pub(crate) names: BTreeSet<String>,
}

/// One name that a `use` declaration brings into scope.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) path: Vec<String>,
    /// The name in this file; `*` for all names of a module.
    pub(crate) name: String,
    /// Whether other files may import it from here.
    pub(crate) exported: bool,
}

const ITEMS: &[&str] =
    &["const", "enum", "fn", "macro_rules", "static", "struct", "trait", "type", "union"];

impl Source {
    pub(crate) fn parse(text: &str) -> Self {
        let mut source = Self::default();
        source.read(&tokens(text), 0);
        source
    }

    /// Reads the items of a file, or of a module inside of it that is `nested` levels deep.
    fn read(&mut self, tokens: &[&str], nested: usize) {
        let mut at = 0;
        let mut depth = 0_usize;
        let mut for_tests = false;
        let mut exported = false;
        while at < tokens.len() {
            let token = tokens[at];
            let next = tokens.get(at + 1).copied().unwrap_or_default();
            match token {
                "#" if next == "[" => {
                    let end = closing(tokens, at + 1);
                    for_tests |= is_for_tests(&tokens[at + 2..end]);
                    self.code(&tokens[at + 2..end], nested);
                    at = end;
                }
                "pub" => {
                    exported = true;
                    if next == "(" {
                        at = closing(tokens, at + 1);
                    }
                }
                "mod" if is_name(next) && depth == 0 => {
                    let is_inline = tokens.get(at + 2) == Some(&"{");
                    let end = if is_inline { closing(tokens, at + 2) } else { at + 2 };
                    match (is_inline, for_tests) {
                        (true, false) => self.read(&tokens[at + 3..end], nested + 1),
                        (true, true) => {}
                        (false, false) => drop(self.children.insert(next.to_owned())),
                        (false, true) => drop(self.test_children.insert(next.to_owned())),
                    }
                    at = end;
                    (for_tests, exported) = (false, false);
                }
                "use" => {
                    let end = at + tokens[at..].iter().position(|it| *it == ";").unwrap_or(0);
                    if !for_tests {
                        self.declare(&tokens[at + 1..end], &[], exported, nested);
                    }
                    at = end.max(at);
                    (for_tests, exported) = (false, false);
                }
                "{" if for_tests && depth == 0 => {
                    at = closing(tokens, at);
                    (for_tests, exported) = (false, false);
                }
                _ => {
                    match token {
                        "{" => depth += 1,
                        "}" => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    let defined = if next == "!" {
                        tokens.get(at + 2).copied().unwrap_or_default()
                    } else {
                        next
                    };
                    if depth == 0 && ITEMS.contains(&token) && is_name(defined) {
                        self.items.insert(defined.to_owned());
                        at += if next == "!" { 2 } else { 1 };
                    } else if is_name(token) {
                        let length = path_length(&tokens[at..]);
                        self.code(&tokens[at..at + length], nested);
                        at += length - 1;
                    }
                    if depth == 0 && matches!(token, ";" | "}") {
                        (for_tests, exported) = (false, false);
                    }
                }
            }
            at += 1;
        }
    }

    /// Notes the names and paths in a piece of code.
    fn code(&mut self, tokens: &[&str], nested: usize) {
        let mut at = 0;
        while at < tokens.len() {
            let length = path_length(&tokens[at..]).max(1);
            if is_name(tokens[at]) {
                let names = tokens[at..at + length].iter().filter(|token| **token != "::");
                let path = from_file(names.map(|name| (*name).to_owned()).collect(), nested);
                self.names.extend(path.iter().cloned());
                if path.len() > 1 {
                    self.paths.push(path);
                }
            }
            at += length;
        }
    }

    /// Notes the names of a `use` declaration, or of one branch in its braces.
    fn declare(&mut self, tokens: &[&str], prefix: &[String], exported: bool, nested: usize) {
        let mut path = prefix.to_vec();
        let mut at = 0;
        while at < tokens.len() {
            match tokens[at] {
                "::" => {}
                "{" => {
                    for branch in branches(&tokens[at + 1..closing(tokens, at)]) {
                        self.declare(branch, &path, exported, nested);
                    }
                    return;
                }
                "as" => break,
                name => path.push(name.to_owned()),
            }
            at += 1;
        }
        let alias = (tokens.get(at) == Some(&"as")).then(|| tokens[at + 1].to_owned());
        if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
            path.pop();
        }
        let Some(last) = path.last() else { return };
        let name = alias.unwrap_or_else(|| last.clone());
        if name == "*" {
            path.pop();
        }
        self.uses.push(Use { path: from_file(path, nested), name, exported });
    }
}

/// The branches of a braced list.
fn branches<'a, 'b>(tokens: &'b [&'a str]) -> Vec<&'b [&'a str]> {
    let mut depth = 0;
    let is_end = |token: &&str| {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == ","
    };
    tokens.split(is_end).filter(|branch| !branch.is_empty()).collect()
}

/// The path as it reads outside of `nested` inline modules.
fn from_file(mut path: Vec<String>, nested: usize) -> Vec<String> {
    for _ in 0..nested {
        if path.first().is_some_and(|name| name == "super") {
            "self".clone_into(&mut path[0]);
            if path.get(1).is_some_and(|name| name == "super") {
                path.remove(0);
            }
        }
    }
    path
}

/// How many tokens the path at the start takes.
fn path_length(tokens: &[&str]) -> usize {
    let mut length = usize::from(tokens.first().is_some_and(|token| is_name(token)));
    while length > 0
        && tokens.get(length) == Some(&"::")
        && tokens.get(length + 1).is_some_and(|token| is_name(token))
    {
        length += 2;
    }
    length
}

/// Whether an attribute restricts an item to tests, or to tests and fuzzing.
fn is_for_tests(attribute: &[&str]) -> bool {
    attribute.first() == Some(&"cfg") && attribute.contains(&"test") && !attribute.contains(&"not")
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[&str], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return index;
                }
            }
            _ => {}
        }
    }
    tokens.len() - 1
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The names and punctuation of a file, without comments, literals and lifetimes.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = vec![];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            quote_length(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let length =
                rest.find(|it: char| !(it.is_alphanumeric() || it == '_')).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(length);
            if ["r", "br", "cr"].contains(&word) && behind.starts_with(['"', '#']) {
                length + raw_string_length(behind)
            } else {
                tokens.push(word);
                length
            }
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(&rest[..length]);
            }
            length
        };
        rest = &rest[length..];
    }
    tokens
}

fn string_length(text: &str) -> usize {
    let mut escaped = true; // the opening quote
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `#"…"#`, with any number of `#`; 1 for the `#` of a raw name.
fn raw_string_length(text: &str) -> usize {
    let hashes = text.len() - text.trim_start_matches('#').len();
    if !text[hashes..].starts_with('"') {
        return 1;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[hashes + 1..].find(&end).map_or(text.len(), |at| hashes + 1 + at + end.len())
}

/// The length of a character literal, or of a lifetime.
fn quote_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => 3 + text[3..].find('\'').unwrap_or(0),
        (_, Some((at, '\''))) => at + 1,
        _ => text[1..]
            .find(|it: char| !(it.is_alphanumeric() || it == '_'))
            .map_or(text.len(), |length| 1 + length),
    }
}
