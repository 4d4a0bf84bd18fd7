//! Signature Version 4: is this request from whom it says, unchanged, and meant for us, now?
//!
//! The canonical request is signed again by `aws-sigv4`, over exactly the headers that the caller
//! says it signed, and the two signatures are compared in constant time.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::{Duration, SystemTime};

use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;

use crate::{
    error::Refusal,
    principals::Principals,
    time::{format_amz_date, parse_amz_date},
};

/// How far a caller's clock may be from ours.
const SKEW: Duration = Duration::from_mins(5);

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: &str = "x-amz-date";
const SESSION_TOKEN: &str = "x-amz-security-token";

/// The service that a request must be signed for.
pub(crate) struct Service<'a> {
    pub(crate) name: &'static str,
    /// `None` accepts any region that the caller names.
    pub(crate) region: Option<&'a str>,
}

/// An `Authorization` header taken apart; nothing in it is verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorization<'a> {
    pub(crate) access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Refusal::MissingAuthenticationToken`] when it is not there, and
    /// [`Refusal::IncompleteSignature`] when it is not of this scheme or lacks a part.
    pub(crate) fn parse(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let value =
            headers.get(header::AUTHORIZATION).ok_or(Refusal::MissingAuthenticationToken)?;
        let parts = value
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix(ALGORITHM))
            .and_then(|value| value.strip_prefix(' '))
            .ok_or(Refusal::IncompleteSignature("Unsupported or malformed Authorization header"))?;

        let field = |name: &str, missing| {
            parts
                .split(',')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .ok_or(Refusal::IncompleteSignature(missing))
        };
        let credential =
            field("Credential", "Authorization header requires 'Credential' parameter.")?;
        let signed_headers =
            field("SignedHeaders", "Authorization header requires 'SignedHeaders' parameter.")?;
        let signature = field("Signature", "Authorization header requires 'Signature' parameter.")?;

        let mut scope = credential.split('/');
        let scope =
            [scope.next(), scope.next(), scope.next(), scope.next(), scope.next(), scope.next()];
        let [Some(access_key_id), Some(date), Some(region), Some(service), Some(terminator), None] =
            scope
        else {
            return Err(Refusal::IncompleteSignature(
                "Credential must have exactly 5 slash-delimited elements, e.g. \
                 keyid/date/region/service/term",
            ));
        };
        Ok(Self { access_key_id, date, region, service, terminator, signed_headers, signature })
    }

    /// Verifies a `POST /` with these headers and this body.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnrecognizedClient`], [`Refusal::InvalidSignature`], [`Refusal::ExpiredToken`] or
    /// [`Refusal::IncompleteSignature`], as AWS has them.
    pub(crate) fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        service: &Service<'_>,
        principals: &Principals,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let time = self.check_scope(headers, service)?;
        let signed = self.signed(headers)?;
        check_skew(time, now)?;

        let principal = principals.find(self.access_key_id).ok_or(Refusal::UnrecognizedClient)?;
        let token = match headers.get(SESSION_TOKEN) {
            None => None,
            Some(token) => Some(token.to_str().map_err(|_| Refusal::UnrecognizedClient)?),
        };
        principal.check_session(token, now)?;

        let expected = sign_again(&signed, body, self, principal.identity(), time)?;
        let same: bool = expected.as_bytes().ct_eq(self.signature.as_bytes()).into();
        if same { Ok(()) } else { Err(mismatch()) }
    }

    /// Is it for this service in this region, on the day it says? Returns the time of signing.
    fn check_scope(
        &self,
        headers: &HeaderMap,
        service: &Service<'_>,
    ) -> Result<SystemTime, Refusal> {
        let refuse = |text: &str| Err(Refusal::InvalidSignature(text.to_owned()));
        if service.region.is_some_and(|region| region != self.region) {
            return refuse("Credential should be scoped to a valid region.");
        }
        if self.service != service.name {
            return refuse(&format!(
                "Credential should be scoped to correct service: '{}'.",
                service.name
            ));
        }
        if self.terminator != "aws4_request" {
            return refuse("Credential should be scoped with a valid terminator: 'aws4_request'.");
        }
        let date = headers.get(DATE).and_then(|date| date.to_str().ok()).ok_or(
            Refusal::IncompleteSignature(
                "Authorization header requires existence of 'X-Amz-Date'.",
            ),
        )?;
        let Some(time) = parse_amz_date(date) else {
            return refuse("Date must be in ISO-8601 'basic format'.");
        };
        if !date.starts_with(self.date) || self.date.len() != "YYYYMMDD".len() {
            return refuse(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date \
                 from HTTP",
            );
        }
        Ok(time)
    }

    /// The headers that were signed. AWS wants `host` and every `x-amz-` header among them.
    fn signed<'h>(&self, headers: &'h HeaderMap) -> Result<Vec<(&'h str, &'h str)>, Refusal> {
        let is_signed = |name: &str| self.signed_headers.split(';').any(|signed| signed == name);
        let must_be_signed = |name: &str| name == "host" || name.starts_with("x-amz-");
        if !headers.contains_key(header::HOST) {
            return Err(Refusal::IncompleteSignature("The request has no Host header."));
        }
        if let Some(name) =
            headers.keys().find(|name| must_be_signed(name.as_str()) && !is_signed(name.as_str()))
        {
            return Err(Refusal::InvalidSignature(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            )));
        }
        headers
            .iter()
            .filter(|(name, _)| is_signed(name.as_str()))
            .map(|(name, value)| Ok((name.as_str(), value.to_str().map_err(|_| mismatch())?)))
            .collect()
    }
}

fn check_skew(signed: SystemTime, now: SystemTime) -> Result<(), Refusal> {
    let [at, ours] = [signed, now].map(format_amz_date);
    if signed + SKEW < now {
        let limit = format_amz_date(now - SKEW);
        return Err(Refusal::InvalidSignature(format!(
            "Signature expired: {at} is now earlier than {limit} ({ours} - 5 min.)"
        )));
    }
    if now + SKEW < signed {
        let limit = format_amz_date(now + SKEW);
        return Err(Refusal::InvalidSignature(format!(
            "Signature not yet current: {at} is still later than {limit} ({ours} + 5 min.)"
        )));
    }
    Ok(())
}

/// The signature that the holder of `identity` would have put on the request.
fn sign_again(
    headers: &[(&str, &str)],
    body: &[u8],
    scope: &Authorization<'_>,
    identity: &Identity,
    time: SystemTime,
) -> Result<String, Refusal> {
    let mut settings = SigningSettings::default();
    // The caller chose what to sign, and told us; nothing is left out on our part.
    settings.excluded_headers = None;
    let params = v4::SigningParams::builder()
        .identity(identity)
        .region(scope.region)
        .name(scope.service)
        .time(time)
        .settings(settings)
        .build()
        .map_err(|error| Refusal::Internal(error.to_string()))?
        .into();
    let body = SignableBody::Bytes(body);
    let request =
        SignableRequest::new("POST", "/", headers.iter().copied(), body).map_err(|_| mismatch())?;
    Ok(sign(request, &params).map_err(|_| mismatch())?.into_parts().1)
}

fn mismatch() -> Refusal {
    Refusal::InvalidSignature(
        "The request signature we calculated does not match the signature you provided. Check \
         your AWS Secret Access Key and signing method. Consult the service documentation for \
         details."
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        headers
    }

    #[test]
    fn the_parts_are_found_with_and_without_spaces() {
        for separator in [", ", ","] {
            let text = [
                "AWS4-HMAC-SHA256 Credential=AKIA/20240102/us-east-1/kms/aws4_request",
                "SignedHeaders=host;x-amz-date",
                "Signature=abc",
            ]
            .join(separator);
            let headers = headers(&text);
            let parsed = Authorization::parse(&headers).unwrap();
            assert_eq!(parsed.access_key_id, "AKIA");
            assert_eq!(parsed.date, "20240102");
            assert_eq!(parsed.signed_headers, "host;x-amz-date");
            assert_eq!(parsed.signature, "abc");
        }
    }

    #[test]
    fn a_missing_part_is_incomplete() {
        for text in [
            "Bearer x",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, Signature=x",
            "AWS4-HMAC-SHA256 SignedHeaders=host, Signature=x",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d, SignedHeaders=host, Signature=x",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f, SignedHeaders=host, Signature=x",
        ] {
            let headers = headers(text);
            let parsed = Authorization::parse(&headers);
            assert!(matches!(parsed, Err(Refusal::IncompleteSignature(_))), "{text}");
        }
        let none = HeaderMap::new();
        let parsed = Authorization::parse(&none);
        assert!(matches!(parsed, Err(Refusal::MissingAuthenticationToken)));
    }

    #[test]
    fn the_clock_may_be_off_by_five_minutes_and_no_more() {
        let now = parse_amz_date("20240102T030405Z").unwrap();
        let second = Duration::from_secs(1);
        assert!(check_skew(now - SKEW, now).is_ok());
        assert!(check_skew(now + SKEW, now).is_ok());
        assert!(check_skew(now - SKEW - second, now).is_err());
        assert!(check_skew(now + SKEW + second, now).is_err());
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(
            authorization in "(AWS4-HMAC-SHA256 Credential=AKIA/20240102/us-east-1/kms/aws4_request, SignedHeaders=[a-z;-]{0,20}, Signature=[0-9a-f]{0,64})|[ -~]{0,80}",
            date in "20240102T030405Z|[ -~]{0,20}",
            value in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut headers = headers(&authorization);
            headers.insert(header::HOST, HeaderValue::from_static("localhost"));
            headers.insert(DATE, HeaderValue::from_str(&date).unwrap());
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert("a", value);
            }
            let principals = Principals::new("111122223333");
            principals.accept("AKIA".to_owned(), "secret".to_owned(), None, None);
            let now = parse_amz_date("20240102T030405Z").unwrap();
            let service = Service { name: "kms", region: Some("us-east-1") };
            let verified = Authorization::parse(&headers)
                .and_then(|parsed| parsed.verify(&headers, b"{}", &service, &principals, now));
            prop_assert!(verified.is_err());
        }
    }
}
