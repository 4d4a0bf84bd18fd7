//! The dashboard and the alerts name only metrics that the crates emit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The prefixes of our metrics.
const PREFIXES: [&str; 3] = ["branch_keys_", "envelope_cache_", "kms_pool_"];
/// The macros that emit metrics, with the suffixes of what Prometheus stores for each.
const MACROS: [(&str, &[&str]); 3] =
    [("counter!(", &[""]), ("gauge!(", &[""]), ("histogram!(", &["_bucket", "_count", "_sum"])];

#[test]
fn the_crates_emit_each_metric_of_the_dashboard_and_the_alerts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut emitted = BTreeSet::new();
    collect(&root.join("../../crates"), &mut emitted);
    assert!(emitted.len() > 20, "{emitted:?}");
    let mut used = BTreeMap::new();
    for file in ["dashboard.json", "rules.yml", "rules_test.yml"] {
        let text = fs::read_to_string(root.join("monitoring").join(file)).unwrap();
        used.extend(names(&text).map(|name| (name.to_owned(), file)));
    }
    assert!(used.len() > 20, "{used:?}");
    used.retain(|name, _| !emitted.contains(name));
    assert!(used.is_empty(), "not emitted: {used:?}");
}

#[test]
fn each_panel_has_an_id_of_its_own_and_a_query() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring/dashboard.json");
    let dashboard: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(names(&panel["targets"].to_string()).next().is_some(), "{}", panel["title"]);
    }
}

/// Adds the names in the source files of a folder, as Prometheus stores them.
fn collect(folder: &Path, emitted: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, emitted);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            for (name, suffixes) in MACROS {
                for call in source.split(name).skip(1) {
                    let Some(metric) = call.trim_start().strip_prefix('"') else { continue };
                    let metric = metric.split('"').next().unwrap();
                    emitted.extend(suffixes.iter().map(|suffix| format!("{metric}{suffix}")));
                }
            }
        }
    }
}

/// Returns the names of our metrics in a text.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
}
