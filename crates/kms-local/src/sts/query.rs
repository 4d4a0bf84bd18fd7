//! Requests of the Query protocol, which are forms.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::xml::Fault;

/// The maximum number of tags of a session.
const MAX_TAGS: usize = 50;

/// The parameters of a request by name.
#[derive(Debug, Default)]
pub(super) struct Query {
    parameters: BTreeMap<String, String>,
}

impl Query {
    /// Parses a form. Invalid UTF-8 is replaced. The last of several fields with one name counts.
    pub(super) fn parse(body: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(body);
        Self { parameters: pairs.map(|pair| (pair.0.into_owned(), pair.1.into_owned())).collect() }
    }

    pub(super) fn optional(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Returns a required parameter.
    ///
    /// # Errors
    ///
    /// A validation error if it is missing or empty.
    pub(super) fn required(&self, name: &str) -> Result<&str, Fault> {
        let missing =
            || Fault::validation(&format!("The request must contain the parameter {name}"));
        self.optional(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }

    /// Returns a number within bounds, or the default if the parameter is missing.
    ///
    /// # Errors
    ///
    /// A validation error if it is not a number or is out of bounds.
    pub(super) fn number(
        &self,
        name: &str,
        default: u64,
        allowed: RangeInclusive<u64>,
    ) -> Result<u64, Fault> {
        let Some(text) = self.optional(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| allowed.contains(number));
        let (min, max) = allowed.into_inner();
        number.ok_or_else(|| {
            Fault::validation(&format!("{name} must be a number from {min} to {max}"))
        })
    }

    /// Returns the session tags: `Tags.member.1.Key`, `Tags.member.1.Value` and so on.
    ///
    /// # Errors
    ///
    /// A validation error if there are too many tags, or if a tag is too long, repeated or
    /// incomplete.
    pub(super) fn tags(&self) -> Result<BTreeMap<String, String>, Fault> {
        let mut tags = BTreeMap::new();
        for n in 1.. {
            let part = |part: &str| self.optional(&format!("Tags.member.{n}.{part}"));
            let (key, value) = match (part("Key"), part("Value")) {
                (None, None) => break,
                (Some(key), Some(value)) => (key, value),
                _ => return Err(invalid_tag(n, "needs a key and a value")),
            };
            if tags.len() == MAX_TAGS {
                return Err(invalid_tag(n, "exceeds the maximum of 50"));
            }
            if !(1..=128).contains(&key.chars().count()) || value.chars().count() > 256 {
                return Err(invalid_tag(n, "is too long or has an empty key"));
            }
            // AWS treats keys that differ only in case as the same.
            if tags.keys().any(|known: &String| known.eq_ignore_ascii_case(key)) {
                return Err(invalid_tag(n, "has the same key as another"));
            }
            tags.insert(key.to_owned(), value.to_owned());
        }
        Ok(tags)
    }
}

fn invalid_tag(n: usize, what: &str) -> Fault {
    Fault::validation(&format!("session tag {n} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_parsed() {
        let query = Query::parse(b"Action=AssumeRole&A=a%20b+c%26&Empty=&A=last");
        assert_eq!(query.optional("Action"), Some("AssumeRole"));
        assert_eq!(query.optional("A"), Some("last"));
        assert!(query.required("Empty").is_err() && query.required("None").is_err());
        assert_eq!(Query::parse(b"A=a%20b+c%26").optional("A"), Some("a b c&"));
    }

    #[test]
    fn numbers_have_bounds_and_a_default() {
        let query = Query::parse(b"Low=899&Right=900&Word=x");
        let number = |name| query.number(name, 3600, 900..=1000).ok();
        assert_eq!(
            ["Low", "Right", "Word", "None"].map(number),
            [None, Some(900), None, Some(3600)]
        );
    }

    #[test]
    fn tags_are_parsed_and_checked() {
        let tags = |body: &str| Query::parse(body.as_bytes()).tags().ok();
        let two =
            "Tags.member.1.Key=a&Tags.member.1.Value=1&Tags.member.2.Key=b&Tags.member.2.Value=";
        assert_eq!(
            tags(two).unwrap(),
            BTreeMap::from([("a", "1"), ("b", "")].map(|(k, v)| (k.to_owned(), v.to_owned())))
        );
        assert_eq!(tags("").unwrap(), BTreeMap::new());
        let many: Vec<_> =
            (1..=51).map(|n| format!("Tags.member.{n}.Key=k{n}&Tags.member.{n}.Value=v")).collect();
        assert!(tags(&many[..50].join("&")).is_some() && tags(&many.join("&")).is_none());
        assert!(tags("Tags.member.1.Key=a").is_none());
        assert!(tags("Tags.member.1.Key=&Tags.member.1.Value=1").is_none());
        assert!(tags(&two.replace("Key=b", "Key=A")).is_none());
    }
}
