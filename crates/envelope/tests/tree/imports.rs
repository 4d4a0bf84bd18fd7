//! Checks how the files of each crate import each other.
//!
//! A file imports from its own room or from below, never upward or sideways, and no two files
//! import each other, directly or through other files. A file that only declares and re-exports its
//! child modules imports nothing from them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::graph::Graph;

/// The crates that are checked, by their folders beside this crate's.
const CRATES: &[Crate] = &[
    Crate { folder: "envelope", root: "lib.rs", rooms: ENVELOPE },
    Crate { folder: "kms-pool", root: "lib.rs", rooms: KMS_POOL },
    Crate { folder: "branch-keys", root: "lib.rs", rooms: BRANCH_KEYS },
    Crate { folder: "kms-local", root: "lib.rs", rooms: &[] },
    Crate { folder: "envelope-cli", root: "main.rs", rooms: &[] },
];

struct Crate {
    folder: &'static str,
    root: &'static str,
    /// Each room's floor. A file belongs to the room with the longest matching path.
    rooms: &'static [(&'static str, u8)],
}

const ENVELOPE: &[(&str, u8)] = &[
    ("client", 6),
    ("materials/default", 5),
    ("materials/caching", 5),
    ("materials/manager", 4),
    ("stream", 4),
    ("materials/caching/cache", 3),
    ("keyring", 3),
    ("message", 3),
    ("materials", 2),
    ("branch_key", 2),
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
    ("gate", 0),
    ("sync", 0),
];

const KMS_POOL: &[(&str, u8)] = &[
    ("builder", 7),
    ("replicas", 7),
    ("supplier", 6),
    ("pool", 5),
    ("client", 4),
    ("service", 4),
    ("request", 3),
    ("credentials", 2),
    ("connection", 1),
    ("background", 0),
    ("error", 0),
    ("key_arn", 0),
    ("region", 0),
    ("stats", 0),
    ("telemetry", 0),
    ("time", 0),
];

const BRANCH_KEYS: &[(&str, u8)] = &[
    ("conformance", 5),
    ("store", 4),
    ("kms", 3),
    ("telemetry", 2),
    ("memory", 2),
    ("sql", 2),
    ("dynamodb", 2),
    ("context", 2),
    ("kms_keys", 2),
    ("error", 1),
    ("storage", 0),
    ("info", 0),
    ("item", 0),
    ("tier", 0),
    ("time", 0),
];

/// The files outside of all rooms: they may import everything.
const NO_ROOM: &[&str] = &["", "fuzzing", "guide"];

/// The crates that are here, with their graphs: a package outside of the workspace has only itself.
fn crates() -> impl Iterator<Item = (&'static Crate, Graph)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    CRATES.iter().filter_map(move |it| {
        let folder = match it.folder {
            "envelope" => here.join("src"),
            other => here.parent()?.join(other).join("src"),
        };
        folder.exists().then(|| (it, Graph::read(&folder, it.root)))
    })
}

#[test]
fn no_file_imports_upward_or_sideways() {
    let mut climbs = vec![];
    for (it, graph) in crates().filter(|(it, _)| !it.rooms.is_empty()) {
        let room_of = |file: &str| {
            room_of(it.rooms, file)
                .unwrap_or_else(|| panic!("{}: {file} is in no room: give it one", it.folder))
        };
        for (file, imports) in &graph.imports {
            if NO_ROOM.contains(&file.split('/').next().unwrap()) {
                continue;
            }
            let (room, floor) = room_of(file);
            for (imported, name) in imports {
                let (other_room, other_floor) = room_of(imported);
                if room != other_room && other_floor >= floor && (floor, other_floor) != (0, 0) {
                    climbs.push(format!(
                        "{}: {file} (floor {floor}) imports {name} from {imported} (floor \
                         {other_floor})",
                        it.folder
                    ));
                }
            }
        }
    }
    assert!(climbs.is_empty(), "{}", climbs.join("\n"));
}

fn room_of(rooms: &[(&'static str, u8)], file: &str) -> Option<(&'static str, u8)> {
    let holds = |room: &str| {
        file == room || file.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
    };
    rooms.iter().filter(|(room, _)| holds(room)).max_by_key(|(room, _)| room.len()).copied()
}

#[test]
fn no_two_files_import_each_other() {
    let mut problems = vec![];
    for (it, graph) in crates() {
        for circle in graph.circles() {
            problems.push(format!(
                "{}: {} files import each other: {circle:?}. The shortest circle:",
                it.folder,
                circle.len()
            ));
            for (importing, name, imported) in graph.shortest_circle(&circle) {
                problems.push(format!("    {importing:?} imports {name} from {imported:?}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn circles_are_found_through_re_exports_and_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c; mod quiet; pub use b::B as Shown;");
    // `crate::Shown` is `b::B`.
    write("a.rs", "pub struct A; fn f() -> crate::Shown { \"mod x {\"; '{'; todo!() }");
    write("b.rs", "use crate::{c::{self, C}, quiet::Child};\npub struct B(C, Child);");
    write("c.rs", "mod inner { pub(in crate::c) fn f(a: super::super::a::A) {} }\npub struct C;");
    // Re-exports its child, which imports from it: no circle. Neither are tests and comments.
    write("quiet/mod.rs", "mod child; pub use self::child::Child; pub const NUMBER: u8 = b'\"';");
    write(
        "quiet/child.rs",
        "pub struct Child([u8; super::NUMBER as usize]); // crate::a::A\n\
         #[cfg(test)] mod tests { use crate::a::A; }",
    );
    let graph = Graph::read(folder.path(), "lib.rs");
    assert_eq!(graph.circles(), [["a", "b", "c"]]);
    assert_eq!(
        graph.shortest_circle(&["a", "b", "c"]),
        [("a", "crate::Shown", "b"), ("b", "crate::c::C", "c"), ("c", "super::a::A", "a")]
    );
    assert_eq!(graph.imports["a"]["b"], "crate::Shown");
    assert_eq!(graph.imports["c"]["a"], "super::a::A");
    assert_eq!(graph.imports["quiet/child"].keys().collect::<Vec<_>>(), ["quiet"]);
    assert!(graph.imports["quiet"].is_empty());
}

#[test]
fn only_the_aws_kms_keyrings_know_the_pool() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let uses_pool = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().any(|line| line.split("//").next().unwrap().contains("kms_pool"))
    };
    let mut files = rust_files(&source);
    files.retain(uses_pool);
    files.retain(|file| *file != source.join("lib.rs")); // re-exports it
    let room = source.join("keyring/aws_kms");
    assert!(!files.is_empty() && files.iter().all(|it| it.starts_with(&room)), "{files:?}");
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
    files
}
