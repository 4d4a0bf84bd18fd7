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

/// Files that still contain old text. Remove a file from this list when it has become clean; never
/// add one.
const EXEMPT: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benches/instructions",
    "benches/peers/python/encryption_sdk.py",
    "benches/peers/python/worker.py",
    "benches/peers/run",
    "benches/peers/src/lines.rs",
    "benches/peers/src/measure.rs",
    "benches/peers/src/peer.rs",
    "benches/peers/src/requests.rs",
    "crates/kms-pool/Cargo.toml",
];

/// Files that may still contain longer lines. Remove a file from this list when it has none; never
/// add one.
const LONG: &[&str] = &[
    ".ci/run",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
    "RELEASING.md",
    "SECURITY.md",
    "benches/README.md",
    "benches/REPORT.md",
    "benches/instructions",
    "benches/peers/Cargo.toml",
    "benches/peers/python/encryption_sdk.py",
    "benches/peers/python/tink_envelope.py",
    "benches/peers/python/worker.py",
    "benches/peers/run",
    "benches/peers/src/machine.rs",
    "benches/peers/src/report.rs",
    "benches/src/bin/file.rs",
    "benches/src/bin/limits.rs",
    "benches/src/bin/matrix.rs",
    "benches/src/bin/outage.rs",
    "benches/src/bin/pool-budget.rs",
    "benches/src/bin/pool-churn.rs",
    "benches/src/bin/pool-failover.rs",
    "benches/src/bin/pool-get.rs",
    "benches/src/bin/pool-isolation.rs",
    "benches/src/bin/pool-provider-outage.rs",
    "benches/src/bin/pool-rotation.rs",
    "benches/src/bin/pool-table.rs",
    "benches/src/bin/ratios.rs",
    "benches/src/bin/residency/main.rs",
    "benches/src/bin/revocation.rs",
    "benches/src/bin/rotation.rs",
    "benches/src/bin/stampede.rs",
    "benches/src/bin/trials.rs",
    "benches/src/bin/turns.rs",
    "benches/src/trials/hostile/flood.rs",
    "benches/src/trials/hostile/heavy.rs",
    "crates/envelope-cli/README.md",
    "crates/envelope-cli/src/arguments.rs",
    "crates/envelope-cli/src/failure.rs",
    "crates/envelope-cli/src/wrapping_key.rs",
    "crates/envelope-cli/tests/program/inspecting.rs",
    "crates/envelope/src/cache/mod.rs",
    "crates/envelope/src/cache/policy.rs",
    "crates/envelope/src/client/batch.rs",
    "crates/envelope/src/client/blocking.rs",
    "crates/envelope/src/client/builder.rs",
    "crates/envelope/src/client/encrypt.rs",
    "crates/envelope/src/client/mod.rs",
    "crates/envelope/src/client/prepared.rs",
    "crates/envelope/src/client/readiness.rs",
    "crates/envelope/src/context.rs",
    "crates/envelope/src/crypto/aead.rs",
    "crates/envelope/src/crypto/kdf.rs",
    "crates/envelope/src/error.rs",
    "crates/envelope/src/format/encrypted_data_key.rs",
    "crates/envelope/src/format/frame.rs",
    "crates/envelope/src/format/header.rs",
    "crates/envelope/src/format/non_framed.rs",
    "crates/envelope/src/fuzzing.rs",
    "crates/envelope/src/guide/contexts_and_limits.md",
    "crates/envelope/src/guide/outages.md",
    "crates/envelope/src/guide/runtimes.md",
    "crates/envelope/src/guide/sizing.md",
    "crates/envelope/src/guide/streams_and_files.md",
    "crates/envelope/src/guide/tenants.md",
    "crates/envelope/src/guide/testing.md",
    "crates/envelope/src/keyring/aws_kms/discovery.rs",
    "crates/envelope/src/keyring/aws_kms/key_arn.rs",
    "crates/envelope/src/keyring/aws_kms/mrk.rs",
    "crates/envelope/src/keyring/aws_kms/mrk_discovery.rs",
    "crates/envelope/src/keyring/aws_kms/multi.rs",
    "crates/envelope/src/keyring/aws_kms/strict.rs",
    "crates/envelope/src/keyring/multi.rs",
    "crates/envelope/src/keyring/raw_aes.rs",
    "crates/envelope/src/keyring/raw_rsa.rs",
    "crates/envelope/src/materials/caching/builder.rs",
    "crates/envelope/src/materials/caching/mod.rs",
    "crates/envelope/src/materials/manager.rs",
    "crates/envelope/src/materials/required_context.rs",
    "crates/envelope/src/observer/metrics.rs",
    "crates/envelope/src/observer/tracing.rs",
    "crates/envelope/src/stream/buffer.rs",
    "crates/envelope/src/stream/header.rs",
    "crates/envelope/src/stream/mod.rs",
    "crates/envelope/tests/aws_kms_regions/main.rs",
    "crates/envelope/tests/buffers.rs",
    "crates/envelope/tests/caching.rs",
    "crates/envelope/tests/client_vectors.rs",
    "crates/envelope/tests/live_matrix/keys.rs",
    "crates/envelope/tests/live_matrix/main.rs",
    "crates/envelope/tests/raw_aes.rs",
    "crates/envelope/tests/streams.rs",
    "crates/kms-local/Cargo.toml",
    "crates/kms-local/src/builder.rs",
    "crates/kms-local/src/ciphertext.rs",
    "crates/kms-local/src/main.rs",
    "crates/kms-local/src/multi_region.rs",
    "crates/kms-local/src/signature.rs",
    "crates/kms-pool/Cargo.toml",
    "crates/kms-pool/src/builder/check.rs",
    "crates/kms-pool/src/credentials/role.rs",
    "crates/kms-pool/src/credentials/session/tests.rs",
    "crates/kms-pool/src/error/kind.rs",
    "crates/kms-pool/src/pool.rs",
    "crates/kms-pool/src/replicas.rs",
    "crates/kms-pool/src/sight.rs",
    "crates/kms-pool/src/supplier.rs",
    "crates/kms-pool/tests/network.rs",
    "examples/payment_service.rs",
    "examples/quickstart.rs",
    "tests/interop/kms_local_boto3.py",
    "tests/interop/make_vectors",
    "tests/interop/open_quickstart.py",
    "tests/interop/python_client.py",
    "tests/interop/run",
];

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
    files.retain(|path| !path.ends_with("/words.rs") && !EXEMPT.contains(&&**path));
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
