//! The words that `STYLE.md` bans do not appear in comments, documentation and messages, and lines
//! have at most 100 columns.

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
const CHECKED: &[&str] = &[
    ".ci",
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
    "RELEASING.md",
    "SECURITY.md",
    "benches",
    "clippy.toml",
    "crates",
    "deny.toml",
    "examples",
    "fuzz",
    "tests",
];

/// Folders that hold no text of ours.
const SKIPPED: &[&str] = &["__pycache__", "corpus", "data", "node_modules", "target", "vectors"];

/// The kinds of files that are checked; `""` is a script.
const KINDS: &[&str] = &["", "md", "py", "rs", "sh", "toml", "yml"];

/// The longest line that is allowed, in characters.
const MAX_COLUMNS: usize = 100;

/// A generated report and its generator, whose strings are the report's paragraphs.
const LONG: &[&str] = &["benches/REPORT.md", "benches/peers/src/report.rs"];

/// The workspace's folder; `None` where the package is alone.
fn workspace() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("SECURITY.md").exists().then_some(root)
}

fn files(root: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for path in CHECKED {
        collect(root, &root.join(path), &mut files);
    }
    files
}

fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn lines_have_at_most_100_columns() {
    let Some(root) = workspace() else { return };
    let mut problems = vec![];
    for path in files(&root).iter().filter(|path| !LONG.contains(&&***path)) {
        for (line, columns) in long_lines(&text(&root, path)) {
            problems.push(format!("{path}:{line}: {columns} columns"));
        }
    }
    assert!(problems.is_empty(), "long lines:\n{}", problems.join("\n"));
}

#[test]
fn a_long_line_is_found_unless_it_cannot_be_wrapped() {
    let long = "x".repeat(MAX_COLUMNS);
    let fits = format!("{long}\n// {long}\n[link]: {long}\n| {long} | cell |\n");
    assert_eq!(long_lines(&fits), []);
    assert_eq!(long_lines(&format!("\n{long} {long}")), [(2, 201)]);
}

/// The lines that are too long, with their lengths. Rows of Markdown tables cannot be wrapped, nor
/// can a single long word, such as a URL.
fn long_lines(text: &str) -> Vec<(usize, usize)> {
    let mut found = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let columns = line.chars().count();
        let content = line.trim_start_matches([' ', '/', '!', '#', '*', '-', '>']);
        let is_single = content.split(' ').filter(|word| !word.ends_with("]:")).count() == 1;
        if columns > MAX_COLUMNS && !content.starts_with('|') && !is_single {
            found.push((number, columns));
        }
    }
    found
}

#[test]
fn banned_words_are_not_used() {
    let Some(root) = workspace() else { return };
    let mut files = files(&root);
    files.retain(|path| !path.ends_with("/words.rs"));
    let mut problems = vec![];
    for path in &files {
        for (line, word) in uses(&text(&root, path)) {
            problems.push(format!("{path}:{line}: {word:?}"));
        }
    }
    assert!(problems.is_empty(), "banned words, see STYLE.md:\n{}", problems.join("\n"));
}

#[test]
fn a_phrase_is_found_across_lines_and_only_as_whole_words() {
    let text = "//! A value of\n//! late.\nfn anew_and_anew() {}\n// Whoever waits.\n\"whatevers\"";
    assert_eq!(uses(text), [(1, "of late"), (4, "whoever")]);
}

/// Adds the files below `path`, relative to `root`.
fn collect(root: &Path, path: &PathBuf, files: &mut BTreeSet<String>) {
    let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    if path.is_dir() {
        if !SKIPPED.contains(&path.file_name().unwrap().to_str().unwrap()) {
            for entry in fs::read_dir(path).unwrap() {
                collect(root, &entry.unwrap().path(), files);
            }
        }
    } else if path.exists()
        && KINDS.contains(&path.extension().map_or("", |kind| kind.to_str().unwrap()))
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
        joined.push_str(line.trim().trim_start_matches(['/', '!', '#']).trim());
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
