//! Opening connections before they are needed.

use aws_sdk_kms::error::SdkError;
use aws_smithy_types::body::SdkBody;

use crate::error::KmsError;
use crate::request::PING;
use crate::slot::{Purpose, Slot};

/// Sends a request that every AWS endpoint answers by itself, and is content with any answer: what
/// counts is the connection that it leaves behind.
pub(crate) async fn connect(slot: &Slot) -> Result<(), KmsError> {
    let probe =
        slot.client(Purpose::OneAttempt).generate_random().customize().mutate_request(|request| {
            let ping = request.uri().trim_end_matches('/').to_owned() + PING;
            // Both are valid: what they replace was.
            let _ = request.set_uri(ping);
            let _ = request.set_method("GET");
            request.headers_mut().remove("content-length");
            request.headers_mut().remove("x-amz-target");
            *request.body_mut() = SdkBody::empty();
        });
    match probe.send().await {
        Ok(_) | Err(SdkError::ServiceError(_) | SdkError::ResponseError(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
