//! Branch keys: the commands of `envelope keys`, and messages under a branch key.

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    io::{Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use branch_keys::{Item, ItemType, SqlStorage, Storage as _};
use kms_local::KmsLocal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use crate::{Place, Ran, finish};

const REGION: &str = "us-east-1";
const FILE: &str = "sqlite:keys.db";

/// A KMS with a key, and a place whose environment names them and a store.
struct Scene {
    kms: KmsLocal,
    place: Place,
}

impl Scene {
    async fn start(store: &str) -> Self {
        let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
        let credentials = kms.issue_credentials();
        let mut place = Place::new();
        place.write("ca.pem", kms.ca_pem().as_bytes());
        place.variables = [
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id()),
            ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key()),
            ("AWS_CA_BUNDLE", place.path("ca.pem").to_str().unwrap()),
            ("AWS_ENDPOINT_URL_KMS", kms.endpoint(REGION)),
            ("ENVELOPE_STORE", store),
            ("ENVELOPE_LOGICAL_NAME", "payments"),
            ("ENVELOPE_KMS_KEY", &kms.create_key(REGION)),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        Self { kms, place }
    }

    /// Starts with a SQLite file and the branch key `tenant-42`.
    async fn with_branch_key() -> Self {
        let scene = Self::start(FILE).await;
        assert_eq!(scene.keys(&["create-store"]), "");
        let create = ["create", "tenant-42", "--encryption-context", "tenant=42"];
        assert_eq!(scene.keys(&create), "tenant-42\n");
        scene
    }

    /// Runs `envelope keys`, which must succeed, and returns its output.
    fn keys(&self, arguments: &[&str]) -> String {
        let output = self.place.succeeds(&[&["keys"], arguments].concat(), b"");
        String::from_utf8(output).unwrap()
    }

    /// Runs `envelope keys`, which must fail with this status and text.
    fn refuses(&self, arguments: &[&str], status: i32, expected: &str) -> Ran {
        self.fails(&[&["keys"], arguments].concat(), b"", status, expected)
    }

    /// Runs the program, which must fail with this status and text. SQLite may change its files.
    fn fails(&self, arguments: &[&str], input: &[u8], status: i32, expected: &str) -> Ran {
        let ran = self.place.run(arguments, input);
        assert_eq!(ran.status, Some(status), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
        ran
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.unset(name);
        self.place.variables.push((name, value.to_owned()));
    }

    fn unset(&mut self, name: &str) {
        self.place.variables.retain(|(variable, _)| *variable != name);
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|it| it == b'-' || it.is_ascii_hexdigit())
}

/// The life of branch keys, from the creation of their store.
fn life(scene: &Scene) {
    assert_eq!(scene.keys(&["create-store"]), "");
    assert_eq!(scene.keys(&["create-store"]), "");
    assert_eq!(scene.keys(&["list"]), "");
    let create = ["create", "tenant-42", "--encryption-context", "tenant=42"];
    assert_eq!(scene.keys(&create), "tenant-42\n");
    let random = scene.keys(&["create"]);
    let random = random.trim_end();
    assert!(is_uuid(random), "{random}");
    let mut ids: Vec<_> = scene.keys(&["list"]).lines().map(str::to_owned).collect();
    ids.sort();
    assert_eq!(ids, [random, "tenant-42"]);

    let key = "hierarchical:tenant-42";
    let encrypt = ["encrypt", "--wrapping-key", key, "--encryption-context", "row=1"];
    let decrypt = ["decrypt", "--wrapping-key", key];
    let first = scene.place.succeeds(&encrypt, b"first");
    let rotated = scene.keys(&["rotate", "tenant-42"]);
    let rotated = rotated.trim_end();
    assert!(is_uuid(rotated), "{rotated}");
    let second = scene.place.succeeds(&encrypt, b"second");
    assert_eq!(scene.place.succeeds(&decrypt, &first), b"first");
    assert_eq!(scene.place.succeeds(&decrypt, &second), b"second");
    let other = ["decrypt", "--wrapping-key", &format!("hierarchical:{random}")];
    scene.fails(&other, &second, 1, "envelope inspect");

    // The version is in the message, and in the store.
    let inspected = scene.place.succeeds(&["inspect", "--json"], &second);
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    let data_key = &inspected["encrypted_data_keys"][0];
    assert_eq!(data_key["key_name"], "tenant-42");
    assert_eq!(data_key["branch_key_version"], rotated);
    let text = String::from_utf8(scene.place.succeeds(&["inspect"], &second)).unwrap();
    assert!(text.contains(&format!("\"tenant-42\", version {rotated}, 92 bytes")), "{text}");
    let shown: Value = serde_json::from_str(&scene.keys(&["show", "tenant-42", "--json"])).unwrap();
    assert_eq!(shown["verified"], false);
    assert_eq!(shown["active"]["version"], rotated);
    assert_eq!(shown["active"]["encryption_context"], json!({ "tenant": "42" }));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 2);
    assert_eq!(shown["versions"][1]["version"], rotated);
    assert_eq!(shown["has_beacon_key"], true);
    let text = scene.keys(&["show", "tenant-42"]);
    assert!(text.contains("encryption context \"tenant\" = \"42\""), "{text}");

    let verified = scene.keys(&["verify", "tenant-42"]);
    assert_eq!(verified, "\"tenant-42\": 4 items are authentic\n");
    assert_eq!(scene.keys(&["verify"]).lines().count(), 2);

    let shredded = scene.keys(&["shred", "tenant-42", "--yes"]);
    assert!(shredded.contains("items deleted: 4") && shredded.contains("backups"), "{shredded}");
    scene.fails(&decrypt, &second, 1, "was shredded");
    for command in [&["show", "tenant-42"][..], &["rotate", "tenant-42"], &create] {
        scene.refuses(command, 1, "was shredded");
    }
    assert_eq!(scene.keys(&["list"]), format!("{random}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_branch_keys_in_a_file() {
    let scene = Scene::start(FILE).await;
    life(&scene);
}

#[cfg(feature = "dynamodb")]
#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_branch_keys_in_dynamodb() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let database = dynoxide::Database::memory().unwrap();
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    let mut scene = Scene::start("dynamodb:branch-keys").await;
    scene.set("AWS_ENDPOINT_URL_DYNAMODB", &endpoint);
    scene.refuses(&["list"], 2, "--region");
    scene.refuses(&["list", "--region", REGION], 1, "envelope keys create-store");
    scene.set("AWS_DEFAULT_REGION", REGION);
    life(&scene);
    let elsewhere = ["--home-region", "eu-west-1"];
    for command in [&["create"][..], &["rotate", "a"], &["shred", "a", "--yes"]] {
        scene.refuses(&[command, &elsewhere].concat(), 1, "home region eu-west-1");
    }
    // An ARN has the region. The engine supports no ARNs.
    scene.unset("AWS_DEFAULT_REGION");
    let arn = format!("dynamodb:arn:aws:dynamodb:{REGION}:000000000000:table/branch-keys");
    scene.refuses(&["list", "--store", &arn], 1, "at 'tableName'");
    scene.unset("AWS_ACCESS_KEY_ID");
    scene.refuses(&["list", "--region", REGION], 1, "credentials");
}

/// `tests/databases/run` starts the servers, with an empty database each.
#[cfg(all(feature = "mysql", feature = "postgres"))]
#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_branch_keys_on_servers() {
    for variable in ["ENVELOPE_TEST_POSTGRES", "ENVELOPE_TEST_MYSQL"] {
        let Ok(url) = std::env::var(variable) else { continue };
        let scene = Scene::start(&url).await;
        let missing = scene.refuses(&["list"], 1, "envelope keys create-store");
        assert!(!missing.stderr.contains("secret"), "{}", missing.stderr);
        life(&scene);
        let denied = ["list", "--store", &url.replace("secret", "hunter2")];
        let denied = scene.refuses(&denied, 1, "denied access");
        assert!(!denied.stderr.contains("hunter2"), "{}", denied.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_branch_keys_than_fit_into_one_page_are_listed() {
    let scene = Scene::with_branch_key().await;
    let url = format!("sqlite:{}", scene.place.path("keys.db").display());
    let storage = SqlStorage::connect(url).await.unwrap();
    let [active, version, beacon] =
        [ItemType::Active, ItemType::Version([1; 16]), ItemType::Beacon].map(|item_type| Item {
            id: String::new(),
            item_type,
            kms_key_arn: String::new(),
            create_time: String::new(),
            hierarchy_version: 1,
            version: None,
            ciphertext: vec![1],
            attributes: BTreeMap::new(),
        });
    let mut expected = vec!["tenant-42".to_owned()];
    for number in 0..1_000 {
        let id = format!("id-{number}");
        let item = |item: &Item| Item { id: id.clone(), ..item.clone() };
        storage.create(&item(&active), &item(&version), &item(&beacon)).await.unwrap();
        expected.push(id);
    }
    let mut ids: Vec<_> = scene.keys(&["list"]).lines().map(str::to_owned).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    // These items are not authentic.
    scene.refuses(&["verify"], 1, "1000 of 1001 branch keys have problems");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_could_forge_lines_are_listed_only_as_json() {
    let scene = Scene::with_branch_key().await;
    scene.kms.faults(REGION).deny_access(true);
    // Listing, showing and shredding send no request to AWS KMS.
    assert_eq!(scene.keys(&["list"]), "tenant-42\n");
    assert_eq!(scene.keys(&["list", "--json"]), "\"tenant-42\"\n");
    scene.kms.faults(REGION).deny_access(false);
    let forged = "tenant-1\ntenant-2";
    let created =
        scene.place.run(&["keys", "create", forged, "--encryption-context", "tenant=1"], b"");
    assert_eq!(created.status, Some(0), "{}", created.stderr);
    let ran = scene.refuses(&["list"], 1, "use --json");
    assert_eq!(ran.output, b"tenant-42\n");
    assert!(ran.stderr.contains(r"tenant-1\ntenant-2"), "{}", ran.stderr);
    assert_eq!(scene.keys(&["list", "--json"]), "\"tenant-1\\ntenant-2\"\n\"tenant-42\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_loses_a_race_names_the_winner() {
    let scene = Scene::with_branch_key().await;
    // Both have read the active item when they call AWS KMS.
    scene.kms.faults(REGION).hang(true);
    let rotate = || {
        let mut command = scene.place.command(&["keys", "rotate", "tenant-42"]);
        command.stdin(Stdio::null()).spawn().unwrap()
    };
    let racers = [rotate(), rotate()];
    while scene.kms.counters(REGION).in_flight < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.kms.faults(REGION).hang(false);
    let mut done = racers.map(finish);
    done.sort_by_key(|it| it.status.code());
    let [winner, loser] = done;
    assert_eq!((winner.status.code(), loser.status.code()), (Some(0), Some(1)));
    let version = String::from_utf8(winner.stdout).unwrap();
    let stderr = String::from_utf8(loser.stderr).unwrap();
    let expected = format!("was faster: use its version {}, created at 2", version.trim_end());
    assert!(stderr.contains(&expected), "{stderr}");
    assert_eq!(loser.stdout, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_names_each_bad_item() {
    let mut scene = Scene::with_branch_key().await;
    scene.keys(&["create", "tenant-43", "--encryption-context", "tenant=43"]);
    assert_eq!(scene.keys(&["verify"]).lines().count(), 2);
    // AWS KMS refuses the items of one tenant.
    scene.kms.faults(REGION).deny_contexts([("branch-key-id", "tenant-42")]);
    let ran = scene.refuses(&["verify"], 1, "1 of 2 branch keys have problems");
    assert_eq!(ran.output, b"\"tenant-43\": 3 items are authentic\n");
    for item in ["branch:ACTIVE", "branch:version:", "beacon:ACTIVE"] {
        assert!(ran.stderr.contains(&format!("\"tenant-42\", {item}")), "{}", ran.stderr);
    }
    scene.kms.faults(REGION).clear();
    scene.refuses(&["verify", "tenant-42", "tenant-44"], 1, "no branch key \"tenant-44\"");
    // Another logical name is another store.
    scene.set("ENVELOPE_LOGICAL_NAME", "invoices");
    let ran = scene.refuses(&["verify"], 1, "2 of 2 branch keys");
    assert_eq!(ran.stderr.matches("has another --logical-name").count(), 6, "{}", ran.stderr);
    scene.refuses(&["rotate", "tenant-42"], 1, "has another --logical-name");
    scene.set("ENVELOPE_LOGICAL_NAME", "payments");
    // A KMS key that is not allowed is not called.
    scene.set("ENVELOPE_KMS_KEY", &scene.kms.create_key(REGION));
    let before = scene.kms.counters(REGION).total();
    scene.refuses(&["verify"], 1, "do not allow");
    assert_eq!(scene.kms.counters(REGION).total(), before);
    let account = scene.kms.create_key(REGION);
    let account = account.split(':').nth(4).unwrap();
    let discovery = format!("aws-kms-discovery,account={account},region={REGION}");
    assert_eq!(scene.keys(&["verify", "--kms-key", &discovery]).lines().count(), 2);
    scene.refuses(&["rotate", "tenant-42", "--kms-key", &discovery], 2, "use --kms-key KEY-ARN");
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_keys_can_be_under_a_root() {
    let mut scene = Scene::with_branch_key().await;
    scene.keys(&["create", "root", "--encryption-context", "purpose=root"]);
    scene.set("ENVELOPE_ROOT", "root");
    scene.keys(&["create", "tenant-43", "--encryption-context", "tenant=43"]);
    let encrypt = ["encrypt", "--wrapping-key", "hierarchical:tenant-43"];
    let message = scene.place.succeeds(&encrypt, b"secret");
    scene.keys(&["rotate", "tenant-43"]);
    let decrypt = ["decrypt", "--wrapping-key", "hierarchical:tenant-43"];
    assert_eq!(scene.place.succeeds(&decrypt, &message), b"secret");
    // The root itself is verified, too. The branch key of the other tier is not.
    let ran = scene.refuses(&["verify"], 1, "1 of 3 branch keys have problems");
    let verified = "\"root\": 3 items are authentic\n\"tenant-43\": 4 items are authentic\n";
    assert_eq!(String::from_utf8(ran.output).unwrap(), verified);
    scene.refuses(&["rotate", "root"], 2, "leave out --root");
    scene.kms.faults(REGION).deny_access(true);
    scene.fails(&decrypt, &message, 1, "AccessDeniedException");
    scene.refuses(&["rotate", "tenant-43"], 1, "AccessDeniedException");
    scene.kms.faults(REGION).clear();
    scene.unset("ENVELOPE_ROOT");
    scene.keys(&["rotate", "root"]);
    scene.refuses(&["rotate", "tenant-43"], 1, "is protected by");
    scene.fails(&decrypt, &message, 1, "is protected by");

    // A root is not deleted by mistake.
    scene.refuses(&["shred", "root", "--yes"], 1, "is the root of others, such as \"tenant-43\"");
    scene.keys(&["shred", "root", "--yes", "--with-all-under-it"]);
    scene.refuses(&["show", "root"], 1, "was shredded");
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_asks_on_a_terminal_and_refuses_without_one() {
    let scene = Scene::with_branch_key().await;
    scene.refuses(&["shred", "tenant-42"], 2, "--yes");
    for (typed, status, expected) in [
        ("yes\n", 1, "the typed id differs"),
        ("tenant-4\n", 1, "the typed id differs"),
        ("\u{4}", 1, "the typed id differs"),
        ("tenant-42\n", 0, "items deleted: 3"),
    ] {
        assert_eq!(scene.keys(&["list"]), "tenant-42\n");
        let (ran, shown) = on_a_terminal(&scene, &["keys", "shred", "tenant-42"], typed);
        assert_eq!(ran.status, Some(status), "{shown}");
        for text in ["Type the id to confirm", "backups", "\"tenant-42\" for good"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        let output = String::from_utf8(ran.output).unwrap();
        assert!(output.contains(expected) || shown.contains(expected), "{output}{shown}");
    }
    assert_eq!(scene.keys(&["list"]), "");
    scene.refuses(&["shred", "tenant-43", "--yes"], 1, "no branch key \"tenant-43\"");
}

/// Runs the program with a terminal as standard input and standard error, and types a text.
/// Returns what the terminal showed.
fn on_a_terminal(scene: &Scene, arguments: &[&str], typed: &str) -> (Ran, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, vec![]).unwrap();
    let other_end = || {
        let path = path.to_str().unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    let mut command = scene.place.command(arguments);
    command.stdin(other_end()).stderr(other_end());
    let process = command.spawn().unwrap();
    // Closes the other end in this process.
    drop(command);
    let mut terminal = File::from(terminal);
    terminal.write_all(typed.as_bytes()).unwrap();
    let mut shown = vec![];
    let mut buffer = [0; 1024];
    // The end is an error: EIO.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..length]);
    }
    let done = finish(process);
    let ran = Ran { status: done.status.code(), output: done.stdout, stderr: String::new() };
    (ran, String::from_utf8_lossy(&shown).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_store_is_not_created() {
    let mut scene = Scene::start(FILE).await;
    let commands = [
        &["list"][..],
        &["create"],
        &["rotate", "a"],
        &["show", "a"],
        &["verify"],
        &["shred", "a", "--yes"],
    ];
    for command in commands {
        scene.refuses(command, 1, "keys.db: no such key store: create it with `envelope keys");
        assert!(!scene.place.path("keys.db").exists());
    }
    let encrypt = ["encrypt", "--wrapping-key", "hierarchical:a"];
    scene.place.fails(&encrypt, b"secret", "no such key store");
    // A database without the table.
    scene.place.write("empty.db", b"");
    scene.set("ENVELOPE_STORE", "sqlite:empty.db");
    scene.refuses(&["list"], 1, "envelope keys create-store");
    assert_eq!(scene.keys(&["create-store"]), "");
    assert_eq!(scene.keys(&["list"]), "");
    // An output does not replace the store.
    let before = scene.place.files();
    let overwrite = ["encrypt", "--wrapping-key", crate::AES, "-o", "empty.db"];
    scene.fails(&overwrite, b"secret", 2, "key store");
    assert_eq!(scene.place.files(), before);
    fs::create_dir(scene.place.path("folder")).unwrap();
    scene.refuses(&["list", "--store", "sqlite:folder"], 1, "");
}

/// Anybody who writes to the table chooses ids, and a tenant may choose pairs.
#[tokio::test(flavor = "multi_thread")]
async fn neither_an_id_is_an_option_nor_a_pair_another_one() {
    let scene = Scene::with_branch_key().await;
    let pairs = ["--encryption-context", "aws-crypto-ec:x=1", "--encryption-context", "x=2"];
    scene.keys(&[&["create"], &pairs[..], &["--", "--help"]].concat());
    scene.keys(&["rotate", "--", "--help"]);
    let shown = scene.keys(&["show", "--json", "--", "--help"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let context = &shown["active"]["encryption_context"];
    assert_eq!(*context, json!({ "aws-crypto-ec:x": "1", "x": "2" }));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_on_the_command_line_is_named() {
    let mut scene = Scene::with_branch_key().await;
    scene.refuses(&["create", "tenant-43"], 2, "--encryption-context KEY=VALUE");
    let twice = ["create", "a", "--encryption-context", "a=1", "--encryption-context", "a=2"];
    scene.refuses(&twice, 2, "--encryption-context");
    let again = ["create", "tenant-42", "--encryption-context", "tenant=42"];
    scene.refuses(&again, 1, "exists already");
    scene.refuses(&["rotate", "tenant-43"], 1, "create it first");
    scene.refuses(&["list", "--store", "keys.db"], 2, "sqlite:FILE");
    scene.refuses(&["list", "--store", "sqlite:"], 2, "sqlite:");
    let encrypt = ["encrypt", "--wrapping-key", "hierarchical:tenant-43"];
    scene.fails(&encrypt, b"secret", 1, "create it first");
    for (variable, option) in [
        ("ENVELOPE_KMS_KEY", "--kms-key"),
        ("ENVELOPE_LOGICAL_NAME", "--logical-name"),
        ("ENVELOPE_STORE", "--store"),
    ] {
        let variables = scene.place.variables.clone();
        scene.unset(variable);
        scene.refuses(&["rotate", "tenant-42"], 2, option);
        scene.fails(&encrypt, b"secret", 2, variable);
        scene.place.variables = variables;
    }
}

#[test]
fn passwords_in_urls_are_not_printed() {
    let mut place = Place::new();
    let url = "postgres://admin:hunter2@127.0.0.1:1/keys";
    place.variables.push(("ENVELOPE_STORE", url.to_owned()));
    place.variables.push(("ENVELOPE_LOGICAL_NAME", "payments".to_owned()));
    let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    place.variables.push(("ENVELOPE_KMS_KEY", arn.to_owned()));
    for arguments in [
        &["keys", "list"][..],
        &["keys", "create-store"],
        &["keys", "verify", "a"],
        &["keys", "list", "--store", "mysql://admin:hunter2@127.0.0.1:1/keys"],
        &[
            "keys",
            "list",
            "--store",
            "postgres://admin:hun,ter2@127.0.0.1:1:hunter2/keys?a=hunter2",
        ],
        &["keys", "list", "--store", "oracle://admin:hunter2@127.0.0.1"],
        &["keys", "list", "--stor", url],
        &["keys", "list", url],
        &["keys", url],
        &[url],
        &["keys", "list", "--store", url, "--store", url],
        &["encrypt", "--wrapping-key", "hierarchical:a"],
        &["encrypt", "--wrapping-key", &format!("hierarchical,store={url}")],
        &["keys", "create-store", "--help"],
        &["encrypt", "--help"],
        &["man", "keys", "create-store"],
        &["completions", "bash"],
    ] {
        let ran = place.run(arguments, b"");
        let output = String::from_utf8(ran.output).unwrap();
        assert!(!output.contains("hunter2"), "{arguments:?}: {output}");
        assert!(!ran.stderr.contains("hunter2"), "{arguments:?}: {}", ran.stderr);
        assert!(!(output + &ran.stderr).is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_commands_for_keys_have_manual_pages() {
    let place = Place::new();
    let page = place.succeeds(&["man", "keys", "rotate"], b"");
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("envelope\\-keys\\-rotate"), "{page}");
    let ran = place.run(&["man", "keys", "nothing"], b"");
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
}
