//! The house has floors: a file imports from its own room or from below, never upward or sideways.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each room's floor. A file belongs to the room with the longest matching path.
const ROOMS: &[(&str, u8)] = &[
    ("client", 5),
    ("materials/manager", 4),
    ("materials/default", 4),
    ("materials/caching", 4),
    ("materials/required_context", 4),
    ("stream", 4),
    ("keyring", 3),
    ("message", 3),
    ("materials", 2),
    ("format", 1),
    ("crypto", 1),
    ("cache", 1),
    ("background", 0),
    ("error", 0),
    ("time", 0),
    ("suite", 0),
    ("context", 0),
    ("data_key", 0),
    ("observer", 0),
];

#[test]
fn nobody_imports_upward_or_sideways() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut climbs = vec![];
    for file in rust_files(&src) {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let path = path.to_str().unwrap();
        let path = path.strip_suffix("/mod").unwrap_or(path).to_owned();
        if ["lib", "fuzzing", "guide"].contains(&&*path) {
            continue;
        }
        let (room, floor) =
            room_of(&path).unwrap_or_else(|| panic!("{path} is in no room: give it one"));
        let text = fs::read_to_string(&file).unwrap();
        for import in imports(&absolute(&path, &code(&text))) {
            let (target, target_floor) =
                room_of(&import).unwrap_or_else(|| panic!("{path}: unknown room {import}"));
            if room == target {
                continue;
            }
            if target_floor >= floor && !(floor == 0 && target_floor == 0) {
                climbs.push(format!(
                    "{path} (floor {floor}) imports {import} (floor {target_floor})"
                ));
            }
        }
    }
    assert!(climbs.is_empty(), "{}", climbs.join("\n"));
}

#[test]
fn only_the_aws_kms_keyrings_know_the_pool() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut knowing = rust_files(&src);
    knowing.retain(|file| code(&fs::read_to_string(file).unwrap()).contains("kms_pool"));
    let room = src.join("keyring/aws_kms");
    assert!(
        !knowing.is_empty() && knowing.iter().all(|file| file.starts_with(&room)),
        "{knowing:?}"
    );
}

fn room_of(path: &str) -> Option<(&'static str, u8)> {
    let holds = |room: &str| {
        path == room || path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
    };
    ROOMS.iter().filter(|(room, _)| holds(room)).max_by_key(|(room, _)| room.len()).copied()
}

/// The code of module `path` with `super::` spelled out. `self::` stays: a room's door may show
/// what its upper floors hold.
fn absolute(path: &str, code: &str) -> String {
    let modules: Vec<_> = path.split('/').collect();
    let above = |levels: usize| {
        let kept = &modules[..modules.len().saturating_sub(levels)];
        [&["crate"], kept, &[""]].concat().join("::")
    };
    code.replace("super::super::", &above(2)).replace("super::", &above(1))
}

/// Every path that the file's code takes from `crate::`, written with slashes. A braced list is
/// flattened.
fn imports(code: &str) -> Vec<String> {
    let mut found = vec![];
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = 0;
            for (end, character) in list.char_indices() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => {
                        found.push(list[start..end].to_owned());
                        break;
                    }
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push(list[start..end].to_owned());
                        start = end + 1;
                    }
                    _ => {}
                }
            }
        } else {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    let module =
        |path: &String| path.trim().split("::{").next().unwrap_or_default().replace("::", "/");
    found
        .iter()
        .map(module)
        .map(|path| path.trim_end_matches('/').to_owned())
        .filter(|path| !path.is_empty())
        .collect()
}

/// The file without its tests and comments.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let text = text.split("\n#[cfg(all(test").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
