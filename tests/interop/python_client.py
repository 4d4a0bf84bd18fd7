#!/usr/bin/env python3
"""The AWS Encryption SDK for Python as a peer: answers one JSON request per line of standard input.

    {"operation": "encrypt" | "decrypt", "keyring": KEYRING, "context": {...}, "data": BASE64,
     "frame_length": N, "suite": ID, "streaming": BOOL}
    KEYRING: {"aws_kms": ARN, "endpoint": URL}
        | {"aws_kms_mrk": ARN, "endpoint": URL}
        | {"aws_kms_discovery": REGION, "endpoint": URL, "account": ID}
        | {"aws_kms_mrk_discovery": REGION, "endpoint": URL, "account": ID}
        | {"raw_aes": {"namespace": ..., "name": ..., "key": BASE64}}
        | {"raw_rsa": {"namespace": ..., "name": ..., "padding": ..., "public_pem": ...,
           "private_pem": ...}}
        | {"multi": [GENERATOR or null, CHILD, ...]}

The answer is {"data": BASE64, "context": {...}} or {"error": TEXT}. A frame length of 0 writes a
non-framed body. The default suite is 0x0478. A stream is read and written in small pieces. Without
an endpoint, AWS KMS is at AWS_ENDPOINT_URL_KMS. Its root CA is in AWS_CA_BUNDLE, and credentials
come from the environment.
"""

import base64
import functools
import io
import json
import logging
import os
import sys

import aws_encryption_sdk
import boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    AesWrappingAlg,
    CreateAwsKmsDiscoveryKeyringInput,
    CreateAwsKmsKeyringInput,
    CreateAwsKmsMrkDiscoveryKeyringInput,
    CreateAwsKmsMrkKeyringInput,
    CreateMultiKeyringInput,
    CreateRawAesKeyringInput,
    CreateRawRsaKeyringInput,
    DiscoveryFilter,
    PaddingScheme,
)
from aws_encryption_sdk.identifiers import AlgorithmSuite, CommitmentPolicy

COMMITTING, FORBIDDING = (
    aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)
    for policy in (
        CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT,
    )
)
PROVIDERS = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
# How many bytes a stream is given and gives at once.
PIECE = 1021
WRAPPING = {16: "128", 24: "192", 32: "256"}


def keyring(described):
    return described and keyring_of(json.dumps(described))


@functools.cache
def keyring_of(text):
    """The keyring, made once for each description."""
    described = json.loads(text)
    if "aws_kms" in described:
        arn = described["aws_kms"]
        client = kms_client(arn.split(":")[3], described)
        return PROVIDERS.create_aws_kms_keyring(
            CreateAwsKmsKeyringInput(kms_key_id=arn, kms_client=client)
        )
    if "aws_kms_mrk" in described:
        arn = described["aws_kms_mrk"]
        client = kms_client(arn.split(":")[3], described)
        return PROVIDERS.create_aws_kms_mrk_keyring(
            CreateAwsKmsMrkKeyringInput(kms_key_id=arn, kms_client=client)
        )
    if "aws_kms_discovery" in described:
        client = kms_client(described["aws_kms_discovery"], described)
        settings = CreateAwsKmsDiscoveryKeyringInput(
            kms_client=client, discovery_filter=discovery_filter(described)
        )
        return PROVIDERS.create_aws_kms_discovery_keyring(settings)
    if "aws_kms_mrk_discovery" in described:
        region = described["aws_kms_mrk_discovery"]
        settings = CreateAwsKmsMrkDiscoveryKeyringInput(
            kms_client=kms_client(region, described),
            region=region,
            discovery_filter=discovery_filter(described),
        )
        return PROVIDERS.create_aws_kms_mrk_discovery_keyring(settings)
    if "multi" in described:
        generator, *children = map(keyring, described["multi"])
        return PROVIDERS.create_multi_keyring(
            CreateMultiKeyringInput(generator=generator, child_keyrings=children)
        )
    if "raw_rsa" in described:
        raw = described["raw_rsa"]
        public, private = (
            raw.get(which) and raw[which].encode() for which in ("public_pem", "private_pem")
        )
        settings = CreateRawRsaKeyringInput(
            key_namespace=raw["namespace"],
            key_name=raw["name"],
            padding_scheme=getattr(PaddingScheme, raw["padding"]),
            public_key=public,
            private_key=private,
        )
        return PROVIDERS.create_raw_rsa_keyring(settings)
    raw = described["raw_aes"]
    key = base64.b64decode(raw["key"])
    algorithm = getattr(AesWrappingAlg, f"ALG_AES{WRAPPING[len(key)]}_GCM_IV12_TAG16")
    settings = CreateRawAesKeyringInput(
        key_namespace=raw["namespace"],
        key_name=raw["name"],
        wrapping_key=key,
        wrapping_alg=algorithm,
    )
    return PROVIDERS.create_raw_aes_keyring(settings)


def kms_client(region, described):
    endpoint = described.get("endpoint", os.environ.get("AWS_ENDPOINT_URL_KMS"))
    settings = {"endpoint_url": endpoint, "verify": os.environ.get("AWS_CA_BUNDLE")}
    return boto3.client("kms", region_name=region, **settings)


def discovery_filter(described):
    return DiscoveryFilter(account_ids=[described["account"]], partition="aws")


class Piecewise(io.RawIOBase):
    """A source that is never ready with more than a piece, and can't be sought in."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(memoryview(buffer)[:PIECE])


def streamed(client, mode, data, **settings):
    with client.stream(mode=mode, source=io.BufferedReader(Piecewise(data)), **settings) as stream:
        return b"".join(iter(lambda: stream.read(PIECE), b"")), stream.header


def answer(request):
    mode, data = request["operation"], base64.b64decode(request["data"])
    settings = {"keyring": keyring(request["keyring"]), "encryption_context": request["context"]}
    suite = AlgorithmSuite.get_by_id(request.get("suite", 0x0478))
    client = COMMITTING if suite.is_committing() else FORBIDDING
    if mode == "encrypt":
        settings |= {"algorithm": suite, "frame_length": request["frame_length"]}
    if request.get("streaming"):
        made, header = streamed(client, mode, data, **settings)
    else:
        made, header = getattr(client, mode)(source=data, **settings)
    return {"data": base64.b64encode(made).decode(), "context": dict(header.encryption_context)}


def main():
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        try:
            answered = answer(json.loads(line))
        except Exception as error:  # an exception is the peer's answer
            answered = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answered), flush=True)


if __name__ == "__main__":
    main()
