//! Fields of requests and responses: blobs, and the constraints of AWS on values.

use std::{fmt::Display, ops::RangeInclusive};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use crate::error::Refusal;

/// Bytes that are sent as base64. They can be secret, so they are wiped on drop.
pub(super) struct Blob(pub(super) Zeroizing<Vec<u8>>);

impl Blob {
    pub(super) fn public(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The decoder's error quotes bytes of the input, which may be secret.
        let bytes = STANDARD.decode(&*text).map_err(|_| D::Error::custom("not valid base64"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

/// Returns the value of a required member.
pub(super) fn required<T>(member: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| constraint("null", member, "Member must not be null"))
}

/// Checks the length of a blob or text. The error does not repeat the value, which can be secret.
pub(super) fn length(
    member: &str,
    length: usize,
    allowed: RangeInclusive<usize>,
) -> Result<(), Refusal> {
    let (min, max) = allowed.into_inner();
    if length < min {
        let rule = format!("Member must have length greater than or equal to {min}");
        return Err(constraint("***", member, &rule));
    }
    if length > max {
        let rule = format!("Member must have length less than or equal to {max}");
        return Err(constraint("***", member, &rule));
    }
    Ok(())
}

/// Returns a number within bounds, or the default if the member is left out.
pub(super) fn number(
    member: &str,
    value: Option<i64>,
    default: usize,
    allowed: RangeInclusive<usize>,
) -> Result<usize, Refusal> {
    let Some(value) = value else { return Ok(default) };
    let number = usize::try_from(value).unwrap_or(0);
    let (min, max) = allowed.into_inner();
    if number < min {
        let rule = format!("Member must have value greater than or equal to {min}");
        return Err(constraint(value, member, &rule));
    }
    if number > max {
        let rule = format!("Member must have value less than or equal to {max}");
        return Err(constraint(value, member, &rule));
    }
    Ok(number)
}

/// Returns the refusal for a value that violates a rule, in the words of AWS.
pub(super) fn constraint(value: impl Display, member: &str, rule: &str) -> Refusal {
    Refusal::Validation(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
         {rule}"
    ))
}

/// Returns the refusal for a value that is not in an enumeration.
pub(super) fn not_in_enum(value: &str, member: &str, allowed: &str) -> Refusal {
    constraint(value, member, &format!("Member must satisfy enum value set: [{allowed}]"))
}
