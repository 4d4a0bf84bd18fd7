//! README shows examples as they are.

use std::{fs, path::Path};

#[test]
fn readme_shows_the_example_of_branch_keys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Ok(example) = fs::read_to_string(root.join("examples/branch_keys.rs")) else { return };
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, shown) =
        readme.split_once("<!-- examples/branch_keys.rs -->\n```rust,ignore\n").unwrap();
    let (shown, _) = shown.split_once("```\n").unwrap();
    assert_eq!(shown, example, "copy the example into README");
}
