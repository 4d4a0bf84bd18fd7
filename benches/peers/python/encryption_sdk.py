"""The AWS Encryption SDK for Python as a peer, with a warm caching manager.

encryption_sdk.py             under a raw AES key
encryption_sdk.py KEY-ARN     under a key of the KMS that the environment names
"""

import sys

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import Algorithm, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

import worker


class RawAes(RawMasterKeyProvider):
    """One raw AES key for every request."""

    provider_id = "peers"

    def _get_raw_key(self, key_id):
        return WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=bytes([7] * 32),
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        )


def keys():
    """Whose data keys."""
    if len(sys.argv) > 1:
        return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=sys.argv[1:])
    provider = RawAes()
    provider.add_master_key("key")
    return provider


CLIENT = aws_encryption_sdk.EncryptionSDKClient()
MANAGER = aws_encryption_sdk.CachingCryptoMaterialsManager(
    master_key_provider=keys(),
    cache=aws_encryption_sdk.LocalCryptoMaterialsCache(capacity=1000),
    max_age=3600.0,
)


def encrypt(plaintext, context):
    message, _ = CLIENT.encrypt(
        source=plaintext,
        materials_manager=MANAGER,
        encryption_context=context,
        algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=4096,
    )
    return message


def decrypt(message, context):
    plaintext, header = CLIENT.decrypt(source=message, materials_manager=MANAGER)
    # This client leaves the comparison to who calls it.
    assert context.items() <= header.encryption_context.items()
    return plaintext


worker.serve(
    f"aws-encryption-sdk {aws_encryption_sdk.identifiers.__version__}, "
    f"Python {sys.version.split()[0]}",
    encrypt,
    decrypt,
)
