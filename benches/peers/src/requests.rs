//! How often each asks KMS, as the server counts: `kms-local`, over HTTPS.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{env, error::Error, fs, process};

use envelope::{
    EncryptionContext, Envelope,
    keyring::AwsKmsKeyring,
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};
use kms_local::KmsLocal;
use kms_pool::{Credentials, KmsPool, Principal};
use tokio::runtime;

use crate::{
    Settings,
    contender::AwsEsdk,
    measure::Plan,
    peer::{Process, Who},
};

const REGION: &str = "us-east-1";

/// Who asks: of the cached ones, each has a cache as it comes.
pub(crate) const SIDES: [Who; 5] =
    [Who::Envelope, Who::Uncached, Who::AwsEsdk, Who::Python, Who::JavaScript];

/// Messages of 1 KiB, each encrypted and then decrypted, cycling through the encryption contexts.
pub(crate) struct Workload {
    pub(crate) messages: u32,
    pub(crate) contexts: u32,
    /// Requests of each of [`SIDES`].
    pub(crate) requests: Vec<u64>,
}

impl Workload {
    fn tenants(&self) -> impl Iterator<Item = String> + use<> {
        let contexts = self.contexts;
        (0..self.messages).map(move |number| (number % contexts).to_string())
    }
}

pub(crate) fn run(settings: &Settings, plan: &Plan) -> Result<Vec<Workload>, Box<dyn Error>> {
    let most = if plan.quick { 1_000 } else { 10_000 };
    println!(
        "{:>8} {:>9}{}",
        "messages",
        "contexts",
        SIDES.map(|who| format!("  {:>18}", who.label())).concat()
    );
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let kms = Kms::start(&runtime)?;
    let mut workloads = vec![];
    for (messages, contexts) in [(1, 1), (100, 1), (most, 1), (most, 10)] {
        let mut workload = Workload { messages, contexts, requests: vec![] };
        print!("{messages:>8} {contexts:>9}");
        for who in SIDES {
            kms.server.reset_counters(REGION);
            match who {
                Who::Envelope | Who::Uncached => runtime.block_on(kms.ours(who, &workload))?,
                Who::AwsEsdk => runtime.block_on(kms.aws_esdk(&workload))?,
                _ => kms.process(who, settings, &workload)?,
            }
            let requests = kms.server.counters(REGION).total();
            print!("  {requests:>18}");
            workload.requests.push(requests);
        }
        println!();
        workloads.push(workload);
    }
    Ok(workloads)
}

struct Kms {
    server: KmsLocal,
    key: String,
    pool: KmsPool,
    credentials: Credentials,
}

impl Kms {
    fn start(runtime: &runtime::Runtime) -> Result<Self, Box<dyn Error>> {
        runtime.block_on(async {
            let server = KmsLocal::builder().region(REGION).start().await?;
            let pool = KmsPool::builder()
                .endpoint_url(server.endpoint(REGION))
                .trust_root_pem(server.ca_pem());
            let (key, credentials) = (server.create_key(REGION), server.issue_credentials());
            Ok(Self { key, pool: pool.build()?, credentials, server })
        })
    }

    fn principal(&self) -> Principal {
        Principal::new(self.credentials.clone())
    }

    async fn ours(&self, who: Who, workload: &Workload) -> Result<(), Box<dyn Error>> {
        let keyring = AwsKmsKeyring::new(self.pool.clients(&self.principal()), self.key.parse()?);
        let source = DefaultMaterialsManager::new(keyring);
        let envelope = if who == Who::Uncached {
            Envelope::builder(source).build()?
        } else {
            Envelope::builder(CachingMaterialsManager::builder(source).build()?).build()?
        };
        for tenant in workload.tenants() {
            let context = EncryptionContext::new([("tenant", tenant.as_str())])?;
            let message = envelope.encrypt(&[0; 1024], &context).await?;
            envelope.decrypt(&message, &context).await?;
        }
        Ok(())
    }

    async fn aws_esdk(&self, workload: &Workload) -> Result<(), Box<dyn Error>> {
        let client = self.pool.client(REGION, &self.principal()).await?;
        AwsEsdk::seal_and_open(&client, &self.key, workload.tenants()).await
    }

    /// One of those with a process of their own.
    fn process(
        &self,
        who: Who,
        settings: &Settings,
        workload: &Workload,
    ) -> Result<(), Box<dyn Error>> {
        let certificates = env::temp_dir().join(format!("peers-{}.pem", process::id()));
        fs::write(&certificates, self.server.ca_pem())?;
        let mut command = who.command(settings, Some(&self.key))?;
        command
            .env("AWS_ACCESS_KEY_ID", self.credentials.access_key_id())
            .env("AWS_SECRET_ACCESS_KEY", self.credentials.secret_access_key())
            .env("AWS_ENDPOINT_URL_KMS", self.server.endpoint(REGION))
            .env("AWS_CA_BUNDLE", &certificates)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let answer = Process::start(command)?
            .ask(&format!("messages {} {}", workload.messages, workload.contexts));
        fs::remove_file(certificates)?;
        answer.map(drop)
    }
}
