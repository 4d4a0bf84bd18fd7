//! The signer and the date of a request, as its headers show them.

use std::time::{Duration, SystemTime};

use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::credentials::Fingerprint;

/// AWS accepts signatures that are up to five minutes old. From four minutes on, the date may be
/// the reason for a refusal.
pub(super) const SKEW: Duration = Duration::from_mins(4);

pub(super) struct Signature {
    pub(super) signer: Fingerprint,
    pub(super) date: Option<SystemTime>,
    /// Whether the response can only come from the server whose certificate was checked.
    is_over_tls: bool,
}

impl Signature {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let authorization = request.headers().get("authorization").unwrap_or_default();
        let credential = authorization.split_once("Credential=").map_or("", |(_, rest)| rest);
        let access_key_id = credential.split('/').next().unwrap_or_default();
        let token = request.headers().get("x-amz-security-token");
        Self {
            signer: Fingerprint::of_parts(access_key_id, token),
            date: request.headers().get("x-amz-date").and_then(signing_date),
            is_over_tls: request.uri().starts_with("https://"),
        }
    }

    /// The server's date, if it differs so much from the signature's that the server refused the
    /// request for this reason.
    ///
    /// Only the date of an authenticated server is used: somebody who could set the date could
    /// choose when our signatures are valid.
    pub(super) fn correct_date(&self, refused: &HttpResponse) -> Option<SystemTime> {
        let is_cached = refused.headers().get("age").is_some();
        let date = refused.headers().get("date").filter(|_| self.is_over_tls && !is_cached)?;
        let date = DateTime::from_str(date, Format::HttpDate).ok()?;
        let date = SystemTime::try_from(date).ok()?;
        (apart(date, self.date?) > SKEW).then_some(date)
    }
}

/// Parses the date of a signature, such as `20261127T231502Z`.
fn signing_date(text: &str) -> Option<SystemTime> {
    let part = |range| text.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    let date = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    DateTime::from_str(&date, Format::DateTime).ok()?.try_into().ok()
}

pub(super) fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|later| later.duration())
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    #[test]
    fn the_date_of_a_signature_is_parsed() {
        let date = SystemTime::UNIX_EPOCH + Duration::from_mins(24_015_636);
        assert_eq!(signing_date("20150830T123600Z"), Some(date));
        for text in ["", "20150830", "20150830T1236", "2015083\u{e9}T123600Z", "20151330T123600Z"] {
            assert_eq!(signing_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_is_learned_only_from_an_authenticated_server() {
        let refused = |date: &'static str| {
            let mut response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
            response.headers_mut().insert("date", date);
            response
        };
        let signed = |uri: &str| {
            let mut request = HttpRequest::empty();
            request.set_uri(uri).unwrap();
            request.headers_mut().insert("x-amz-date", "20150830T123600Z");
            Signature::of(&request)
        };
        let two_hours_later = refused("Sun, 30 Aug 2015 14:36:00 GMT");
        assert!(signed("https://kms").correct_date(&two_hours_later).is_some());
        assert_eq!(signed("http://localhost").correct_date(&two_hours_later), None);
        let mut cached = refused("Sun, 30 Aug 2015 14:36:00 GMT");
        cached.headers_mut().insert("age", "3600");
        assert_eq!(signed("https://kms").correct_date(&cached), None);
        let soon_after = refused("Sun, 30 Aug 2015 12:39:00 GMT");
        assert_eq!(signed("https://kms").correct_date(&soon_after), None);
    }
}
