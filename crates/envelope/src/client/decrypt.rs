//! Opening.

use super::{Decrypted, Envelope, encrypt::check_suite, turns::in_turns};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::header::UnverifiedHeader,
    materials::{DecryptionMaterials, DecryptionMaterialsRequest, Proof},
    message::{
        Slices as _,
        open::{self, Opener},
        opening::{Opening, OpeningInPlace},
    },
};

impl Envelope {
    /// Decrypts one whole message.
    ///
    /// The message must authenticate every pair of `context`: either store it, or have been
    /// encrypted with it as required context. It may store more pairs: see
    /// [`Decrypted::encryption_context`]. A signed message is returned only after its signature has
    /// been verified.
    ///
    /// # Errors
    ///
    /// [`Error::EncryptionContextMismatch`], [`Error::RequiredContextMissing`],
    /// [`Error::CommitmentPolicy`], [`Error::DataKeyNotUnwrapped`], [`Error::Authentication`], or
    /// an error of the message format.
    pub async fn decrypt(
        &self,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, Error> {
        let mut plaintext = vec![];
        let opener = self.open(message, context, &mut plaintext).await?;
        Ok(decrypted(opener, plaintext))
    }

    /// Decrypts like [`decrypt`](Self::decrypt), and appends the plaintext to the caller's buffer.
    ///
    /// If the buffer has room for the message's length and the data key is cached, nothing is
    /// allocated. After an error, or if the call is cancelled, the buffer has its previous content,
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

    /// Decrypts like [`decrypt`](Self::decrypt), but in place.
    ///
    /// The plaintext replaces the message, and the rest of the buffer is unspecified. Until the
    /// header is verified, nothing is changed. After a later error, or if the call is cancelled,
    /// the plaintext is wiped: keep a copy of messages that you may want to decrypt again.
    ///
    /// # Errors
    ///
    /// The errors of [`decrypt`](Self::decrypt).
    pub async fn decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.opener(&header, context).await?;
        let mut opening = OpeningInPlace::start(&mut opener, message, body);
        in_turns(&mut opening).await?;
        let plaintext = opening.into_plaintext();
        Ok(decrypted(opener, plaintext))
    }

    /// Opens like [`decrypt`](Self::decrypt), but never waits.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] when the message's data key is not cached, and those of
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

    /// Opens like [`decrypt_into`](Self::decrypt_into), but never waits.
    ///
    /// # Errors
    ///
    /// Those of [`try_decrypt`](Self::try_decrypt).
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

    /// Opens like [`decrypt_in_place`](Self::decrypt_in_place), but never waits. When the data key
    /// is not cached, the message stays as it was.
    ///
    /// # Errors
    ///
    /// Those of [`try_decrypt`](Self::try_decrypt).
    pub fn try_decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.try_opener(&header, context)?;
        let mut opening = OpeningInPlace::start(&mut opener, message, body);
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
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.opener(&header, context).await?;
        let mut opening = Opening::start(&mut opener, message, body, &self.workers, plaintext);
        in_turns(&mut opening).await?;
        drop(opening);
        Ok(opener)
    }

    fn try_open(
        &self,
        message: &[u8],
        context: &EncryptionContext,
        plaintext: &mut Vec<u8>,
    ) -> Result<Opener, Error> {
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        let mut opener = self.try_opener(&header, context)?;
        Opening::start(&mut opener, message, body, &self.workers, plaintext).finish()?;
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
        self.start_opener(header, &materials)
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
            opener = Some(self.start_opener(header, materials));
        })?;
        opener.transpose()
    }

    fn start_opener(
        &self,
        header: &UnverifiedHeader<'_>,
        materials: &DecryptionMaterials,
    ) -> Result<Opener, Error> {
        check_suite(materials.suite(), header.suite)?;
        self.required_keys.check(materials.encryption_context())?;
        Opener::start(header, materials)
    }

    /// Checks a header against the policy, the required keys and the supplied context.
    fn check_header(
        &self,
        header: &UnverifiedHeader<'_>,
        supplied: &EncryptionContext,
    ) -> Result<(), Error> {
        let (suite, policy) = (header.suite, self.policy);
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

/// What a header asks of the materials manager.
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
