//! Decryption.

use super::{
    Decrypted, Envelope,
    encrypt::{check_suite, without_required_context},
    yielding::finish_yielding,
};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::header::UnverifiedHeader,
    materials::{DecryptionMaterials, DecryptionMaterialsRequest, Proof},
    message::{
        Slices as _,
        decrypt::{Decryption, InPlaceDecryption},
        opener::{self, Opener},
    },
};

impl Envelope {
    /// Decrypts one complete message.
    ///
    /// The message must authenticate every pair of `context`: it stores the pair, or it was
    /// encrypted with the pair as [required context](super::EnvelopeBuilder::required_keys). It may
    /// store further pairs: see [`Decrypted::encryption_context`]. The plaintext of a signed
    /// message is returned only after its signature has been verified.
    ///
    /// # Errors
    ///
    /// - [`Error::EncryptionContextMismatch`] if the message has another value for a key of
    ///   `context`.
    /// - [`Error::RequiredContextMissing`] if `context` lacks a required key.
    /// - [`Error::CommitmentPolicy`] if the policy does not allow the message's algorithm suite.
    /// - [`Error::DataKeyNotUnwrapped`] if the keyring cannot unwrap the message's data key, for
    ///   example because a required key has the wrong value, and [`Error::Remembered`] if that
    ///   failed a moment ago.
    /// - [`Error::Authentication`] if the message is not authentic.
    /// - [`Error::Truncated`], [`Error::Malformed`], [`Error::Unsupported`],
    ///   [`Error::TrailingBytes`] or [`Error::TooManyEncryptedDataKeys`] if it is not a message.
    /// - [`Error::Overloaded`], [`Error::Forked`], [`Error::ThreadsNotStarted`] or
    ///   [`Error::Panicked`] as in [`encrypt`](Self::encrypt).
    pub async fn decrypt(
        &self,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, Error> {
        let mut plaintext = vec![];
        let opener = self.open(message, context, &mut plaintext).await?;
        Ok(decrypted(opener, plaintext))
    }

    /// Like [`decrypt`](Self::decrypt), but appends the plaintext to `plaintext`.
    ///
    /// If the buffer has room for the message's length and the data key is cached, this does not
    /// allocate. After an error, or if the future is dropped, the buffer has its previous content,
    /// and the plaintext is wiped.
    ///
    /// # Errors
    ///
    /// The errors of [`decrypt`](Self::decrypt).
    pub async fn decrypt_into<'p>(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &'p mut Vec<u8>,
    ) -> Result<Decrypted<&'p mut [u8]>, Error> {
        let start = plaintext.len();
        let opener = self.open(message, context, plaintext).await?;
        Ok(decrypted(opener, &mut plaintext[start..]))
    }

    /// Like [`decrypt`](Self::decrypt), but the plaintext overwrites the message.
    ///
    /// The rest of the buffer is unspecified. The buffer is unchanged until the header is verified.
    /// After a later error, or if the future is dropped, the plaintext is wiped, and the message is
    /// lost: keep a copy of messages that you may want to decrypt again.
    ///
    /// # Errors
    ///
    /// The errors of [`decrypt`](Self::decrypt).
    pub async fn decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        let (header, body) = opener::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.opener(&header, context).await?;
        let mut opening = InPlaceDecryption::start(&mut opener, message, body);
        finish_yielding(&mut opening).await?;
        let plaintext = opening.into_plaintext();
        Ok(decrypted(opener, plaintext))
    }

    /// Like [`decrypt`](Self::decrypt), but never waits and never fetches a data key.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] if the message's data key is not cached, and the errors of
    /// [`decrypt`](Self::decrypt).
    pub fn try_decrypt(
        &self,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, Error> {
        let mut plaintext = vec![];
        let opener = self.try_open(message, context, &mut plaintext)?;
        Ok(decrypted(opener, plaintext))
    }

    /// Like [`decrypt_into`](Self::decrypt_into), but never waits and never fetches a data key.
    ///
    /// # Errors
    ///
    /// The errors of [`try_decrypt`](Self::try_decrypt).
    pub fn try_decrypt_into<'p>(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &'p mut Vec<u8>,
    ) -> Result<Decrypted<&'p mut [u8]>, Error> {
        let start = plaintext.len();
        let opener = self.try_open(message, context, plaintext)?;
        Ok(decrypted(opener, &mut plaintext[start..]))
    }

    /// Like [`decrypt_in_place`](Self::decrypt_in_place), but never waits and never fetches a data
    /// key. If that is not cached, the message is unchanged.
    ///
    /// # Errors
    ///
    /// The errors of [`try_decrypt`](Self::try_decrypt).
    pub fn try_decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        let (header, body) = opener::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.try_opener(&header, context)?;
        let mut opening = InPlaceDecryption::start(&mut opener, message, body);
        opening.finish()?;
        let plaintext = opening.into_plaintext();
        Ok(decrypted(opener, plaintext))
    }

    async fn open(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &mut Vec<u8>,
    ) -> Result<Opener, Error> {
        let (header, body) = opener::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.opener(&header, context).await?;
        let mut opening = Decryption::start(&mut opener, message, body, &self.workers, plaintext);
        finish_yielding(&mut opening).await?;
        drop(opening);
        Ok(opener)
    }

    fn try_open(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &mut Vec<u8>,
    ) -> Result<Opener, Error> {
        let (header, body) = opener::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.try_opener(&header, context)?;
        Decryption::start(&mut opener, message, body, &self.workers, plaintext).finish()?;
        Ok(opener)
    }

    /// Verifies a header under its data key. Waits only if that is not cached.
    pub(super) async fn opener(
        &self,
        header: &UnverifiedHeader<'_>,
        context: &EncryptionContext,
    ) -> Result<Opener, Error> {
        self.check_header(header, context)?;
        let required = context.without(header.encryption_context);
        let request = decryption_request(header, context, &required);
        if let Some(opener) = self.cached_opener(header, request)? {
            return Ok(opener);
        }
        let materials = self.manager.decryption_materials(request).await?;
        self.start_opener(header, &required, &materials)
    }

    /// Verifies a header under a cached data key.
    fn try_opener(
        &self,
        header: &UnverifiedHeader<'_>,
        context: &EncryptionContext,
    ) -> Result<Opener, Error> {
        self.check_header(header, context)?;
        let required = context.without(header.encryption_context);
        let request = decryption_request(header, context, &required);
        self.cached_opener(header, request)?.ok_or(Error::NotCached)
    }

    fn cached_opener(
        &self,
        header: &UnverifiedHeader<'_>,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Opener>, Error> {
        let mut opener = None;
        self.manager.cached_decryption_materials(request, &mut |materials| {
            opener = Some(self.start_opener(header, request.required_context, materials));
        })?;
        opener.transpose()
    }

    /// `required` is the part of the supplied context that the header does not store. The header is
    /// verified under the materials' own, so that must contain it.
    fn start_opener(
        &self,
        header: &UnverifiedHeader<'_>,
        required: &EncryptionContext,
        materials: &DecryptionMaterials,
    ) -> Result<Opener, Error> {
        check_suite(materials.suite(), header.suite)?;
        let authenticated = materials.required_context();
        if authenticated != required
            && required.iter().any(|(key, value)| authenticated.get(key) != Some(value))
        {
            return Err(without_required_context());
        }
        self.required_keys.check(materials.encryption_context())?;
        Opener::start(header, materials)
    }

    /// Checks a header against the policy, the required keys and the supplied context.
    fn check_header(
        &self,
        header: &UnverifiedHeader<'_>,
        supplied: &EncryptionContext,
    ) -> Result<(), Error> {
        let suite = header.suite;
        let policy = self.policy;
        if !policy.allows_decryption(suite) {
            return Err(Error::CommitmentPolicy { suite, policy });
        }
        self.required_keys.check(supplied)?;
        match supplied.first_contradiction(header.encryption_context) {
            Some(key) => Err(Error::EncryptionContextMismatch { key: key.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Returns the request for the materials of a message with this header.
fn decryption_request<'a>(
    header: &'a UnverifiedHeader<'a>,
    supplied_context: &'a EncryptionContext,
    required_context: &'a EncryptionContext,
) -> DecryptionMaterialsRequest<'a> {
    DecryptionMaterialsRequest {
        suite: header.suite,
        encrypted_data_keys: header.encrypted_data_keys,
        supplied_context,
        required_context,
        stored_context: header.encryption_context,
        proof: Proof::Header(header),
        background: false,
    }
}

fn decrypted<P: AsRef<[u8]>>(opener: Opener, plaintext: P) -> Decrypted<P> {
    Decrypted { plaintext, suite: opener.suite(), encryption_context: opener.into_context() }
}
