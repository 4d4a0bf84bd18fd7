//! Every client opens what every other seals: the AWS Encryption SDKs for Python and for
//! JavaScript, and ours, in one piece and as streams, under raw keys and under AWS KMS on one
//! `kms-local`.
//!
//! Needs a Python with `tests/interop/requirements.txt` installed, named by `ENVELOPE_PYTHON`, and
//! an installed `tests/interop/javascript/client.mjs`, named by `ENVELOPE_JAVASCRIPT`; says so of
//! each that is not set, and passes. Where `ENVELOPE_TEST_MOTO` is the URL of a moto server, AWS
//! KMS is that, too. `tests/interop/run` sets all three.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and names what it skips"
)]

mod case;
mod keys;
mod peers;
mod regions;
mod tally;

use std::{process::Command, thread};

use envelope::{AlgorithmSuite, EncryptionContext, keyring::RsaPadding};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use case::{Case, Hand, Message};
use keys::{Keys, PKCS1, RSA_PADDINGS, aws_kms, multi, raw_aes, raw_rsa};
use peers::{Answer, Peer};
use tally::Tally;

const REGIONS: [&str; 4] = [REGION, "eu-west-1", "ap-southeast-2", "sa-east-1"];
const REGION: &str = "us-east-1";
const UNFRAMED: u32 = 0;
const NO_PKCS1: &str = "JavaScript opens no PKCS #1 v1.5 on this Node.js";
/// How many bytes our streams are given at once.
const PIECE: usize = 1021;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Client {
    Rust,
    Python,
    JavaScript,
}

struct Matrix {
    runtime: Runtime,
    peers: Vec<(Client, Peer)>,
    tally: Tally,
    /// Whether the JavaScript client opens what PKCS #1 v1.5 wraps: its Node.js may refuse.
    javascript_opens_pkcs1: bool,
}

impl Matrix {
    /// Everybody seals each case, and everybody opens what the others sealed; and refuses it
    /// `changed`.
    fn run(&mut self, title: &str, cases: &[Case<'_>], changed: bool) {
        let mut messages = self.seal(cases);
        if changed {
            messages.extend(messages.iter().map(Message::changed).collect::<Vec<_>>());
        }
        self.open(&messages);
        println!("{title}: {} messages", messages.len());
    }

    fn seal<'a>(&mut self, cases: &'a [Case<'a>]) -> Vec<Message<'a>> {
        let attempts: Vec<_> =
            cases.iter().flat_map(|case| [(case, false), (case, true)]).collect();
        let request = |&(case, streaming): &(&Case<'_>, bool)| {
            case.request("encrypt", &case.plaintext(), streaming)
        };
        let requests: Vec<_> = attempts.iter().map(request).collect();
        let Self { runtime, peers, tally, .. } = self;
        let (ours, theirs) = thread::scope(|scope| {
            let asked: Vec<_> = peers
                .iter_mut()
                .map(|(client, peer)| (*client, scope.spawn(|| peer.ask_all(&requests))))
                .collect();
            let ours = |(case, streaming): &(&Case<'_>, bool)| {
                runtime.block_on(case.seal(*streaming)).unwrap()
            };
            let ours: Vec<_> = attempts.iter().map(ours).collect();
            (
                ours,
                asked
                    .into_iter()
                    .map(|(client, asked)| (client, asked.join().unwrap()))
                    .collect::<Vec<_>>(),
            )
        });
        let mut messages = vec![];
        for (&(case, streaming), bytes) in attempts.iter().zip(ours) {
            messages.push(Message {
                case,
                writer: Hand { client: Client::Rust, streaming },
                bytes,
                is_changed: false,
            });
        }
        for (client, answers) in theirs {
            for (&(case, streaming), answer) in attempts.iter().zip(answers) {
                let writer = Hand { client, streaming };
                match (unwritten(client, case), answer) {
                    (None, Ok((bytes, _))) => {
                        messages.push(Message { case, writer, bytes, is_changed: false });
                    }
                    (None, Err(error)) => panic!("{writer} does not seal {case}: {error}"),
                    // Two ways to read for each of the others.
                    (Some(reason), Err(_)) => tally.leave_out(reason, 2 * peers.len()),
                    (Some(reason), Ok(_)) => panic!("no longer true: {reason}: {case}"),
                }
            }
        }
        messages
    }

    fn open(&mut self, messages: &[Message<'_>]) {
        let request = |&(message, streaming): &(&Message<'_>, bool)| {
            message.case.request("decrypt", &message.bytes, streaming)
        };
        let Self { runtime, peers, tally, javascript_opens_pkcs1, .. } = self;
        let answers = thread::scope(|scope| {
            let asked: Vec<_> = peers
                .iter_mut()
                .map(|(client, peer)| {
                    let client = *client;
                    let mut attempts = foreign(client, messages);
                    let all = attempts.len();
                    if client == Client::JavaScript && !*javascript_opens_pkcs1 {
                        attempts.retain(|(message, _)| {
                            message.case.keys.theirs["raw_rsa"]["padding"] != PKCS1
                        });
                        tally.leave_out(NO_PKCS1, all - attempts.len());
                    }
                    let requests: Vec<_> = attempts.iter().map(request).collect();
                    (client, attempts, scope.spawn(move || peer.ask_all(&requests)))
                })
                .collect();
            let attempts = foreign(Client::Rust, messages);
            let ours = |(message, streaming): &(&Message<'_>, bool)| {
                runtime.block_on(message.case.open(&message.bytes, *streaming))
            };
            let ours: Vec<_> = attempts.iter().map(ours).collect();
            let theirs = asked
                .into_iter()
                .map(|(client, attempts, asked)| (client, attempts, asked.join().unwrap()));
            theirs.chain([(Client::Rust, attempts, ours)]).collect::<Vec<_>>()
        });
        for (client, attempts, answers) in answers {
            for ((message, streaming), answer) in attempts.into_iter().zip(answers) {
                let pair = format!("{} → {}", message.writer, Hand { client, streaming });
                let lines = [
                    ("by writer and reader", pair.clone()),
                    ("by suite", message.case.suite.to_string()),
                    ("by keyring", message.case.keys.name.clone()),
                    (
                        "by expected result",
                        if message.is_changed { "is refused" } else { "opens" }.to_owned(),
                    ),
                ];
                let problem = |problem| format!("{pair}: {}: {problem}", message.case);
                tally.count(lines, judge(message, answer).map_err(problem));
            }
        }
    }
}

impl Matrix {
    /// Finds out whether the JavaScript client opens what it wrapped itself.
    fn probe_pkcs1(&mut self) {
        let keys = raw_rsa(PKCS1, RsaPadding::Pkcs1, 2048).managed();
        let context = EncryptionContext::empty();
        let case = Case {
            keys: &keys,
            suite: AlgorithmSuite::default(),
            frame_length: 128,
            length: 1,
            context: &context,
        };
        let Some((_, peer)) =
            self.peers.iter_mut().find(|(client, _)| *client == Client::JavaScript)
        else {
            return;
        };
        let (message, _) = peer.ask(&case.request("encrypt", b"x", false)).unwrap();
        self.javascript_opens_pkcs1 = peer.ask(&case.request("decrypt", &message, false)).is_ok();
    }

    /// A key on moto, which asks nobody who they are.
    fn moto(&self, url: &str, principal: &Principal) -> Keys {
        let pool = KmsPool::builder().endpoint_url(url).build().unwrap();
        let created = async {
            pool.client(REGION, principal).await.unwrap().create_key().send().await.unwrap()
        };
        let arn = self.runtime.block_on(created).key_metadata.unwrap().arn.unwrap();
        aws_kms("moto", url, pool.clients(principal), &arn).managed()
    }

    /// One side seals with a multi-keyring, each other opens with each of its members alone.
    fn each_member_opens(&mut self, context: &EncryptionContext) {
        let aes = || raw_aes("first", 32);
        let pkcs1 = || raw_rsa(PKCS1, RsaPadding::Pkcs1, 2048);
        let oaep = || raw_rsa("OAEP_SHA256_MGF1", RsaPadding::OaepSha256Mgf1, 3072);
        let all = multi(aes(), pkcs1(), oaep()).managed();
        let with = |keys| Case {
            keys,
            suite: AlgorithmSuite::default(),
            frame_length: 128,
            length: 129,
            context,
        };
        let members = [aes().managed(), pkcs1().managed(), oaep().managed()];
        let members = members.each_ref().map(with);
        let sealing = [with(&all)];
        let messages = self.seal(&sealing);
        for case in &members {
            let to_member =
                |message: &Message<'_>| Message { case, bytes: message.bytes.clone(), ..*message };
            self.open(&messages.iter().map(to_member).collect::<Vec<_>>());
        }

        // Children alone open, and do not seal.
        let mut children = all.clone();
        children.theirs["multi"][0] = Value::Null;
        // A multi-keyring with a generator is no other one's child.
        let mut nested = all.clone();
        nested.theirs = json!({ "multi": [raw_aes("outer", 32).theirs, all.theirs] });
        let ours = messages.iter().find(|message| message.writer.client == Client::Rust).unwrap();
        for (client, peer) in &mut self.peers {
            let (opened, _) =
                peer.ask(&with(&children).request("decrypt", &ours.bytes, false)).unwrap();
            assert_eq!(opened, ours.case.plaintext(), "{client:?}'s children open ours");
            peer.ask(&with(&children).request("encrypt", b"secret", false))
                .expect_err("sealed without a generator");
            let sealed = peer.ask(&with(&nested).request("encrypt", b"secret", false));
            assert_eq!(
                sealed.is_ok(),
                *client == Client::JavaScript,
                "{client:?} wrapped with a generator's multi-keyring"
            );
        }
        println!("left out: a generator's multi-keyring as a child in JavaScript, which allows it");
    }

    /// Who is told another value of the context than the message holds does not open it. Comes
    /// last: JavaScript goes.
    fn another_context_is_refused(&mut self, case: &Case<'_>) {
        let context = EncryptionContext::new([("tenant", "43")]).unwrap();
        let cases = [case.clone()];
        let other = Case { context: &context, ..case.clone() };
        let messages = self.seal(&cases);
        let messages: Vec<_> = messages
            .into_iter()
            .map(|message| Message { case: &other, is_changed: true, ..message })
            .collect();
        self.peers.retain(|(client, _)| *client != Client::JavaScript);
        println!("left out: another context on decryption by JavaScript, which compares none");
        self.open(&messages);
    }
}

/// The messages that others wrote, to be read in both ways.
fn foreign<'a>(reader: Client, messages: &'a [Message<'a>]) -> Vec<(&'a Message<'a>, bool)> {
    let others = messages.iter().filter(|message| message.writer.client != reader);
    others.flat_map(|message| [(message, false), (message, true)]).collect()
}

/// Why the client does not write this. It is asked all the same, and must refuse.
fn unwritten(client: Client, case: &Case<'_>) -> Option<&'static str> {
    match (client, case.frame_length) {
        (Client::JavaScript, UNFRAMED) => Some("JavaScript writes no unframed messages"),
        (Client::Python, length) if length % 128 != 0 => {
            Some("Python writes frames of multiples of 128 bytes alone")
        }
        _ => None,
    }
}

/// Whether the reader did what it had to.
fn judge(message: &Message<'_>, answer: Answer) -> Result<(), String> {
    if message.is_changed {
        return answer.map_or(Ok(()), |_| Err("a changed message opened".into()));
    }
    let (plaintext, mut context) = answer?;
    // Clients differ in whether they show the public key that a signed message holds there.
    context.remove("aws-crypto-public-key");
    let context = EncryptionContext::new(&context).map_err(|error| error.to_string())?;
    match (plaintext == message.case.plaintext(), context == *message.case.context) {
        (true, true) => Ok(()),
        (false, _) => Err("another plaintext".into()),
        (_, false) => Err(format!("another context: {context:?}")),
    }
}

/// Each suite, in frames of each of these lengths, with the lengths at which messages differ in
/// form.
fn suites<'a>(
    keys: &'a Keys,
    frame_lengths: &[u32],
    context: &'a EncryptionContext,
) -> Vec<Case<'a>> {
    let mut cases = vec![];
    for suite in AlgorithmSuite::ALL {
        for &frame_length in frame_lengths {
            let frame = if frame_length == UNFRAMED { 128 } else { frame_length as usize };
            for length in [0, 1, 2 * frame, 2 * frame + 1, if frame == 1 { 300 } else { 10_000 }] {
                cases.push(Case { keys, suite, frame_length, length, context });
            }
        }
    }
    cases
}

/// The peers that are there; says which are not.
fn peers(environment: &[(&str, &str)]) -> Vec<(Client, Peer)> {
    let variable = |name: &str| {
        let value = std::env::var(name).ok();
        if value.is_none() {
            println!("skipped everything with this peer: {name} is not set, see tests/interop/run");
        }
        value
    };
    let python = |program: String| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/python_client.py");
        (Client::Python, Peer::start(&program, &[script], environment))
    };
    let javascript = |script: String| {
        // Node.js 18 and 20 open no PKCS #1 v1.5 unless they are told to; later ones do, and do not
        // know this.
        let allowing = "--security-revert=CVE-2023-46809";
        let is_known = Command::new("node")
            .args([allowing, "--version"])
            .output()
            .is_ok_and(|run| run.status.success());
        let arguments = if is_known { vec![allowing, &script] } else { vec![&*script] };
        (Client::JavaScript, Peer::start("node", &arguments, environment))
    };
    let python = variable("ENVELOPE_PYTHON").map(python);
    python.into_iter().chain(variable("ENVELOPE_JAVASCRIPT").map(javascript)).collect()
}

#[test]
fn each_opens_what_the_others_seal() {
    let runtime = Runtime::new().unwrap();
    let builder = KmsLocal::builder().account(regions::ACCOUNT);
    let builder = REGIONS.iter().fold(builder, |builder, region| builder.region(*region));
    let kms = runtime.block_on(builder.start()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, kms.ca_pem()).unwrap();
    let credentials = kms.issue_credentials();
    let peers = peers(&[
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key()),
        ("AWS_CA_BUNDLE", ca_file.to_str().unwrap()),
    ]);
    if peers.is_empty() {
        println!("skipped each_opens_what_the_others_seal: there is no peer");
        return;
    }
    let principal = Principal::new(credentials);
    let pool = KmsPool::builder().trust_root_pem(kms.ca_pem());
    let pool = REGIONS
        .iter()
        .fold(pool, |pool, region| pool.endpoint_url_for(*region, kms.endpoint(region)));
    let pool = pool.build().unwrap();
    let arn = kms.create_key(REGION);
    let on_kms = || aws_kms("kms-local", kms.endpoint(REGION), pool.clients(&principal), &arn);

    let mut matrix =
        Matrix { runtime, peers, tally: Tally::default(), javascript_opens_pkcs1: true };
    matrix.probe_pkcs1();
    let contexts = [
        EncryptionContext::empty(),
        EncryptionContext::new([("tenant", "42")]).unwrap(),
        // Sorted by UTF-8 bytes, U+FF5E comes before U+1D518; by UTF-16 units it would come after.
        EncryptionContext::new([("～", "1"), ("𝔘", "2"), ("zweck", "Prüfung"), ("a", "")]).unwrap(),
    ];
    let tenant = &contexts[1];
    let [aes_128, aes_192, aes_256] = [16, 24, 32].map(|length| raw_aes("name", length).managed());
    let local = on_kms().managed();

    let frame_lengths = [128, 4096, UNFRAMED, 1, 100];
    matrix.run("every suite under raw AES", &suites(&aes_256, &frame_lengths, tenant), false);
    matrix.run("every suite under AWS KMS", &suites(&local, &frame_lengths, tenant), false);
    println!("left out: 10,000 bytes in frames of 1: 300 instead, which say as much");
    if let Ok(url) = std::env::var("ENVELOPE_TEST_MOTO") {
        let moto = matrix.moto(&url, &principal);
        matrix.run(
            "every suite under AWS KMS on moto",
            &suites(&moto, &frame_lengths, tenant),
            false,
        );
    } else {
        println!("left out: AWS KMS on moto: ENVELOPE_TEST_MOTO is not set, see tests/interop/run");
    }

    let case = |keys, suite| Case { keys, suite, frame_length: 128, length: 129, context: tenant };
    let rsa = |bits| RSA_PADDINGS.map(|(name, padding)| raw_rsa(name, padding, bits).managed());
    let (short, longer) = (rsa(2048), [rsa(3072), rsa(4096)].concat());
    let mut cases: Vec<_> =
        longer.iter().map(|keys| case(keys, AlgorithmSuite::default())).collect();
    cases.extend(short.iter().flat_map(|keys| AlgorithmSuite::ALL.map(|suite| case(keys, suite))));
    matrix.run("every suite under raw RSA", &cases, false);
    println!("left out under raw RSA, at which Python is slow: other lengths and frames");
    println!(
        "left out under RSA-3072 and RSA-4096: all suites but the default, because the data keys \
         have the same lengths"
    );

    let everything = multi(
        on_kms(),
        raw_aes("name", 32),
        raw_rsa("OAEP_SHA512_MGF1", RsaPadding::OaepSha512Mgf1, 2048),
    );
    let everything = everything.managed();
    let mut cases = vec![];
    for context in &contexts {
        for keys in [&local, &aes_128, &aes_192, &aes_256, &everything] {
            for length in [0, 1, 127, 128, 129, 256, 10_000] {
                cases.push(Case { length, context, ..case(keys, AlgorithmSuite::default()) });
            }
        }
        cases.extend(AlgorithmSuite::ALL.map(|suite| Case { context, ..case(&aes_256, suite) }));
    }
    matrix.run("contexts, wrapping keys, changed messages", &cases, true);

    matrix.each_member_opens(tenant);
    matrix.another_context_is_refused(&case(&aes_256, AlgorithmSuite::default()));
    println!(
        "left out: multi-Region keys and discovery in JavaScript, whose side of these tests only \
         creates strict keyrings"
    );
    matrix.regions_open_for_each_other(
        &regions::Kms { local: &kms, clients: pool.clients(&principal) },
        tenant,
    );
    matrix.tally.finish();
}
