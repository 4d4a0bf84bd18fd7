//! The fields of values on the command line: `KIND,KEY=VALUE,...`.

/// `KEY=VALUE` fields, which are taken by their keys.
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn new(parts: &[String]) -> Result<Self, String> {
        let pair = |part: &String| {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("invalid field {part:?}: expected KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        parts.iter().map(pair).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn take(&mut self, key: &str) -> Result<String, String> {
        self.take_optional(key)?.ok_or_else(|| format!("missing field: expected {key}="))
    }

    pub(crate) fn take_optional(&mut self, key: &str) -> Result<Option<String>, String> {
        let mut values = self.take_all(key)?;
        if values.len() > 1 {
            return Err(format!("duplicate field {key}="));
        }
        Ok(values.pop())
    }

    pub(crate) fn take_all(&mut self, key: &str) -> Result<Vec<String>, String> {
        let (taken, left): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|(name, _)| name == key);
        self.0 = left;
        if taken.iter().any(|(_, value)| value.is_empty()) {
            return Err(format!("empty field {key}="));
        }
        Ok(taken.into_iter().map(|(_, value)| value).collect())
    }

    pub(crate) fn finish(self) -> Result<(), String> {
        match self.0.first() {
            Some((unknown, _)) => Err(format!("unknown field {unknown}=")),
            None => Ok(()),
        }
    }
}

/// Splits a text at its commas. A backslash escapes a comma or a backslash.
pub(crate) fn split(spec: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![];
    let mut part = String::new();
    let mut characters = spec.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => parts.push(std::mem::take(&mut part)),
            '\\' => {
                let escaped = characters.next().filter(|next| matches!(next, ',' | '\\'));
                part.push(
                    escaped.ok_or(
                        "invalid escape: write `\\\\` for a backslash and `\\,` for a comma",
                    )?,
                );
            }
            character => part.push(character),
        }
    }
    parts.push(part);
    Ok(parts)
}
