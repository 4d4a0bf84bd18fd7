//! The words that `STYLE.md` bans do not appear in comments, documentation and messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Rule 2: each of these has a plainer alternative.
const BANNED: &[&str] = &[
    "anew",
    "by hand",
    "has it that",
    "in the place of",
    "in turn",
    "in turns",
    "is of no use",
    "is told of",
    "lest",
    "of late",
    "those who",
    "to be had",
    "what is",
    "whatever",
    "whoever",
];

/// The folders and files of the workspace that are checked.
const CHECKED: &[&str] = &["crates", "examples", "benches", "README.md", "SECURITY.md"];

/// Folders that are not part of the workspace's packages.
const SKIPPED: &[&str] = &["target", "benches/peers"];

/// Files that still contain old text. Remove a file from this list when it has become clean; never
/// add one.
const EXEMPT: &[&str] = &[];

#[test]
fn banned_words_are_not_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !root.join("SECURITY.md").exists() {
        return; // a package outside of the workspace
    }
    let mut files = BTreeSet::new();
    for path in CHECKED {
        collect(&root, &root.join(path), &mut files);
    }
    let mut problems = vec![];
    for path in &files {
        let uses = uses(&fs::read_to_string(root.join(path)).unwrap());
        match (EXEMPT.contains(&&**path), uses.is_empty()) {
            (false, false) => {
                problems.extend(uses.iter().map(|(line, word)| format!("{path}:{line}: {word:?}")));
            }
            (true, true) => problems.push(format!("{path} is clean: remove it from EXEMPT")),
            _ => {}
        }
    }
    let missing = EXEMPT.iter().filter(|path| !files.contains(**path));
    problems.extend(missing.map(|path| format!("{path} does not exist: remove it from EXEMPT")));
    assert!(problems.is_empty(), "banned words, see STYLE.md:\n{}", problems.join("\n"));
}

#[test]
fn a_phrase_is_found_across_lines_and_only_as_whole_words() {
    let text = "//! A value of\n//! late.\nfn anew_and_anew() {}\n// Whoever waits.\n\"whatevers\"";
    assert_eq!(uses(text), [(1, "of late"), (4, "whoever")]);
}

/// Adds the Rust and Markdown files below `path`, relative to `root`.
fn collect(root: &Path, path: &PathBuf, files: &mut BTreeSet<String>) {
    let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    if SKIPPED.iter().any(|skipped| name == *skipped || name.ends_with(&format!("/{skipped}"))) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(root, &entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|it| it == "rs" || it == "md")
        && !name.ends_with("tests/words.rs")
    {
        files.insert(name);
    }
}

/// The banned words in a text, with the lines on which they begin.
fn uses(text: &str) -> Vec<(usize, &'static str)> {
    let mut joined = String::new();
    let mut starts = vec![];
    for line in text.lines() {
        starts.push(joined.len());
        joined.push_str(line.trim().trim_start_matches("//").trim_start_matches(['/', '!']).trim());
        joined.push(' ');
    }
    joined.make_ascii_lowercase();
    let is_part =
        |byte: Option<&u8>| byte.is_some_and(|it| it.is_ascii_alphanumeric() || *it == b'_');
    let bytes = joined.as_bytes();
    let mut found = vec![];
    for word in BANNED {
        for (at, _) in joined.match_indices(word) {
            let before = at.checked_sub(1).and_then(|at| bytes.get(at));
            if !is_part(before) && !is_part(bytes.get(at + word.len())) {
                found.push((starts.partition_point(|start| *start <= at), *word));
            }
        }
    }
    found.sort_unstable();
    found
}
