//! Verifies AWS Signature Version 4: who signed a request, that it is unchanged, and that it was
//! meant for this service at this time.
//!
//! `aws-sigv4` signs the canonical request again, over exactly the headers that the caller says it
//! signed. The two signatures are compared in constant time.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;

use crate::{
    error::Refusal,
    principals::{Principal, Principals},
    time::{format_amz_date, parse_amz_date},
};

/// The maximum difference between the caller's clock and ours.
const MAX_SKEW: Duration = Duration::from_mins(5);

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: &str = "x-amz-date";
const SESSION_TOKEN: &str = "x-amz-security-token";

/// The service and region that a request must be signed for.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) service: &'static str,
    /// `None` accepts every region.
    pub(crate) region: Option<Arc<str>>,
}

/// A parsed `Authorization` header, of which nothing is verified.
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
    /// Parses the header.
    ///
    /// # Errors
    ///
    /// [`Refusal::MissingAuthenticationToken`] if there is no such header, and
    /// [`Refusal::IncompleteSignature`] if it has another scheme or lacks a part.
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

    /// Verifies the signature of a `POST /` with these headers and this body. Returns the principal
    /// that signed it.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnrecognizedClient`], [`Refusal::InvalidSignature`], [`Refusal::ExpiredToken`] or
    /// [`Refusal::IncompleteSignature`], in the same cases as AWS.
    pub(crate) fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        scope: &Scope,
        principals: &Principals,
        now: SystemTime,
    ) -> Result<Arc<Principal>, Refusal> {
        let time = self.check_scope(headers, scope)?;
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
        if same { Ok(principal) } else { Err(mismatch()) }
    }

    /// Checks that the request was signed for this scope and for the day of its date header.
    /// Returns the time of signing.
    fn check_scope(&self, headers: &HeaderMap, scope: &Scope) -> Result<SystemTime, Refusal> {
        let refuse = |text: &str| Err(Refusal::InvalidSignature(text.to_owned()));
        if scope.region.as_ref().is_some_and(|region| **region != *self.region) {
            return refuse("Credential should be scoped to a valid region.");
        }
        if self.service != scope.service {
            return refuse(&format!(
                "Credential should be scoped to correct service: '{}'.",
                scope.service
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

    /// Returns the signed headers. They must include `host` and every `x-amz-` header.
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
    if signed + MAX_SKEW < now {
        let limit = format_amz_date(now - MAX_SKEW);
        return Err(Refusal::InvalidSignature(format!(
            "Signature expired: {at} is now earlier than {limit} ({ours} - 5 min.)"
        )));
    }
    if now + MAX_SKEW < signed {
        let limit = format_amz_date(now + MAX_SKEW);
        return Err(Refusal::InvalidSignature(format!(
            "Signature not yet current: {at} is still later than {limit} ({ours} + 5 min.)"
        )));
    }
    Ok(())
}

/// Returns the signature that `identity` produces for the request.
fn sign_again(
    headers: &[(&str, &str)],
    body: &[u8],
    scope: &Authorization<'_>,
    identity: &Identity,
    time: SystemTime,
) -> Result<String, Refusal> {
    let mut settings = SigningSettings::default();
    // The caller chose the signed headers, so none of them is excluded here.
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
    fn the_header_is_parsed_with_and_without_spaces() {
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
    fn a_header_without_a_part_is_refused() {
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
    fn a_clock_can_be_off_by_at_most_five_minutes() {
        let now = parse_amz_date("20240102T030405Z").unwrap();
        let second = Duration::from_secs(1);
        assert!(check_skew(now - MAX_SKEW, now).is_ok());
        assert!(check_skew(now + MAX_SKEW, now).is_ok());
        assert!(check_skew(now - MAX_SKEW - second, now).is_err());
        assert!(check_skew(now + MAX_SKEW + second, now).is_err());
    }

    proptest! {
        #[test]
        fn untrusted_headers_never_panic(
            authorization in "(AWS4-HMAC-SHA256 \
                Credential=AKIA/20240102/us-east-1/kms/aws4_request, \
                SignedHeaders=[a-z;-]{0,20}, Signature=[0-9a-f]{0,64})|[ -~]{0,80}",
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
            let scope = Scope { service: "kms", region: Some("us-east-1".into()) };
            let verified = Authorization::parse(&headers)
                .and_then(|parsed| parsed.verify(&headers, b"{}", &scope, &principals, now));
            prop_assert!(verified.is_err());
        }
    }
}
