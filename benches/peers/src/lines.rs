//! What the comparison has to show, and whether it does.

use std::fmt;

use crate::{
    measure::{Figures, KIBIBYTE, MEBIBYTE, bytes},
    peer::{Operation, Who},
};

/// Who must take how many times as long as whom of ours, at which size.
const CLAIMS: [(Who, Who, usize, f64); 6] = [
    (Who::AwsEsdk, Who::Envelope, KIBIBYTE, 40.0),
    (Who::AwsEsdk, Who::Envelope, MEBIBYTE, 30.0),
    (Who::AwsEsdkSigned, Who::EnvelopeSigned, KIBIBYTE, 2.0),
    (Who::Python, Who::Envelope, KIBIBYTE, 35.0),
    (Who::JavaScript, Who::Envelope, KIBIBYTE, 100.0),
    (Who::Tink, Who::Envelope, KIBIBYTE, 1.8),
];

/// One claim, measured.
pub(crate) struct Line {
    pub(crate) who: Who,
    pub(crate) operation: Operation,
    pub(crate) size: usize,
    pub(crate) least: f64,
    pub(crate) ratio: f64,
    /// The same against a prepared context, where there is one.
    pub(crate) prepared: Option<f64>,
    /// The same for the primitives alone, which is the upper bound on this machine.
    pub(crate) bound: f64,
}

impl Line {
    pub(crate) fn verdict(&self) -> &'static str {
        if self.passed() { "PASS" } else { "FALLS SHORT" }
    }

    fn passed(&self) -> bool {
        self.ratio >= self.least
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, operation, size, least, ratio, prepared, bound } = self;
        let (who, operation, size) = (who.label(), operation.name(), bytes(*size));
        write!(
            f,
            "{:<11} {who}, {operation} {size}: {ratio:.2} times ours, at least {least}",
            self.verdict()
        )?;
        let prepared = prepared
            .map_or(String::new(), |prepared| format!("{prepared:.2} times a prepared context, "));
        write!(f, " ({prepared}{bound:.2} times the primitives alone)")
    }
}

/// All claims. Ours is the plain call, `encrypt(&plaintext, &context)`.
pub(crate) struct Lines(pub(crate) Vec<Line>);

impl Lines {
    pub(crate) fn judge(figures: &Figures) -> Self {
        let judge = |(who, ours, size, least)| {
            Operation::BOTH.map(|operation| Line {
                who,
                operation,
                size,
                least,
                ratio: figures.ratio(who, ours, operation, size),
                bound: figures.ratio(who, primitives(ours), operation, size),
                prepared: (ours == Who::Envelope)
                    .then(|| figures.ratio(who, Who::Prepared, operation, size)),
            })
        };
        Self(CLAIMS.into_iter().flat_map(judge).collect())
    }

    pub(crate) fn passed(&self) -> bool {
        self.0.iter().all(Line::passed)
    }

    /// The last word.
    pub(crate) fn verdict(&self) -> String {
        let met = self.0.iter().filter(|line| line.passed()).count();
        format!(
            "{} {met} of {} lines are met",
            if self.passed() { "PASS" } else { "FALLS SHORT" },
            self.0.len()
        )
    }
}

/// What the format itself takes: of a signed message, the signature is most of it.
fn primitives(ours: Who) -> Who {
    if ours == Who::EnvelopeSigned { Who::Signature } else { Who::Floor }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
