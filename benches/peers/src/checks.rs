//! That the comparison is of the same thing: each opens its own messages, and those of all who
//! write the same format.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::error::Error;

use crate::peer::{Peers, Who};

/// Two frames and a bit.
const LENGTH: usize = 9_000;

const FORMATS: [&[Who]; 2] = [
    &[Who::Envelope, Who::Uncached, Who::AwsEsdk, Who::Python, Who::JavaScript],
    &[Who::EnvelopeSigned, Who::AwsEsdkSigned],
];
const ALONE: [Who; 7] =
    [Who::Prepared, Who::Buffer, Who::Tink, Who::AesGcm, Who::AwsLc, Who::Floor, Who::Signature];

/// How many pairs were checked: a failure ends the run.
pub(crate) fn run(peers: &mut Peers) -> Result<usize, Box<dyn Error>> {
    let text = "5a".repeat(LENGTH);
    let mut checked = 0;
    for group in FORMATS.into_iter().chain(ALONE.iter().map(std::slice::from_ref)) {
        for &sealer in group {
            let message = peers.ask(sealer, &format!("seal {text}"))?;
            for &opener in group {
                if peers.ask(opener, &format!("open {message}"))? != text {
                    return Err(format!(
                        "{} did not open what {} sealed",
                        opener.label(),
                        sealer.label()
                    )
                    .into());
                }
                checked += 1;
            }
        }
        println!("{}", group.iter().map(|who| who.label()).collect::<Vec<_>>().join(" · "));
    }
    Ok(checked)
}
