//! What was sealed in one region, opened in the others: multi-Region keys and discovery.

use envelope::{
    AlgorithmSuite, EncryptionContext,
    keyring::{AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring},
};
use kms_local::KmsLocal;
use kms_pool::PooledClients;
use serde_json::{Value, json};

use crate::{Case, Matrix, Message, REGIONS, keys::Keys};

/// The account of every key.
pub(crate) const ACCOUNT: &str = "111122223333";
const OTHER_ACCOUNT: &str = "444455556666";

/// A KMS of several regions, and our clients for it.
pub(crate) struct Kms<'a> {
    pub(crate) local: &'a KmsLocal,
    pub(crate) clients: PooledClients,
}

impl Kms<'_> {
    fn strict(&self, region: &str, arn: &str) -> Keys {
        let ours = AwsKmsKeyring::new(self.clients.clone(), arn.parse().unwrap());
        self.keys("a strict keyring", ours, json!({ "aws_kms": arn }), region)
    }

    fn mrk(&self, region: &str, arn: &str) -> Keys {
        let ours = AwsKmsKeyring::mrk_aware(self.clients.clone(), arn.parse().unwrap());
        self.keys("an MRK keyring", ours, json!({ "aws_kms_mrk": arn }), region)
    }

    fn discovery(&self, region: &str, account: &str) -> Keys {
        let ours = AwsKmsDiscoveryKeyring::new(self.clients.clone());
        let ours = ours.in_region(region.parse().unwrap()).with_filter("aws", [account]).unwrap();
        self.keys(
            "a discovery keyring",
            ours,
            json!({ "aws_kms_discovery": region, "account": account }),
            region,
        )
    }

    fn mrk_discovery(&self, region: &str, account: &str) -> Keys {
        let region_name = region.parse().unwrap();
        let ours = AwsKmsDiscoveryKeyring::mrk_aware(self.clients.clone(), region_name);
        let ours = ours.with_filter("aws", [account]).unwrap();
        let theirs = json!({ "aws_kms_mrk_discovery": region, "account": account });
        self.keys("an MRK discovery keyring", ours, theirs, region)
    }

    fn keys(
        &self,
        name: &str,
        ours: impl Keyring + 'static,
        mut theirs: Value,
        region: &str,
    ) -> Keys {
        theirs["endpoint"] = self.local.endpoint(region).into();
        Keys { name: format!("AWS KMS, {name}"), theirs, ours }.managed()
    }
}

impl Matrix {
    /// One side seals under a multi-Region key in each region, each other opens in each of the
    /// others, where it may. Comes after JavaScript has gone.
    pub(crate) fn regions_open_for_each_other(
        &mut self,
        kms: &Kms<'_>,
        context: &EncryptionContext,
    ) {
        let primary = kms.local.create_multi_region_key(REGIONS[0], &REGIONS[1..]);
        let arn = |region: &str| primary.replace(REGIONS[0], region);
        let [strict, mrk] = [Kms::strict, Kms::mrk]
            .map(|keys| REGIONS.map(|region| keys(kms, region, &arn(region))));
        let discovering = |account| {
            [Kms::discovery, Kms::mrk_discovery]
                .map(|keys| REGIONS.map(|region| keys(kms, region, account)))
        };
        let [discovery, mrk_discovery] = discovering(ACCOUNT);
        let of_others = discovering(OTHER_ACCOUNT);
        let with = |keys| Case {
            keys,
            suite: AlgorithmSuite::default(),
            frame_length: 128,
            length: 129,
            context,
        };

        let mut count = 0;
        for (here, sealing) in mrk.iter().enumerate() {
            let sealing = [with(sealing)];
            let messages = self.seal(&sealing);
            let mut openings = vec![(with(&strict[here]), true), (with(&discovery[here]), true)];
            for there in (0..REGIONS.len()).filter(|there| *there != here) {
                openings
                    .extend([&mrk[there], &mrk_discovery[there]].map(|keys| (with(keys), true)));
                openings
                    .extend([&strict[there], &discovery[there]].map(|keys| (with(keys), false)));
            }
            openings.extend(of_others.iter().flatten().map(|keys| (with(keys), false)));
            let mut to_each = vec![];
            for message in &messages {
                for (case, may) in &openings {
                    to_each.push(Message {
                        case,
                        bytes: message.bytes.clone(),
                        is_changed: !may,
                        ..*message
                    });
                }
            }
            count += to_each.len();
            self.open(&to_each);
        }
        println!("every region for every other: {count} messages");
    }
}
