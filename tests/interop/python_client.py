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
        | {"hierarchical": ID, "store": STORE}
    {"operation": OPERATION, "store": STORE, "id": ID, "version": UUID, "context": {...}}
    OPERATION: "create_table" | "create_key" | "rotate" | "active" | "version" | "beacon"
    STORE: {"table": ..., "logical_name": ..., "dynamodb": URL, "kms_key": ARN, "endpoint": URL}

The answer is {"data": BASE64, "context": {...}} or {"error": TEXT}. Operations on a branch key
answer {"id": ID}, or {"key": BASE64, "version": UUID, "context": {...}}. A frame length of 0 writes
a non-framed body. The default suite is 0x0478. A stream is read and written in small pieces.
Without an endpoint, AWS KMS is at AWS_ENDPOINT_URL_KMS. Its root CA is in AWS_CA_BUNDLE, and
credentials come from the environment.
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
from aws_cryptographic_material_providers.keystore import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.keystore.models import (
    CreateKeyInput,
    CreateKeyStoreInput,
    GetActiveBranchKeyInput,
    GetBeaconKeyInput,
    GetBranchKeyVersionInput,
    KMSConfigurationKmsKeyArn,
    VersionKeyInput,
)
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    AesWrappingAlg,
    CacheTypeNo,
    CreateAwsKmsDiscoveryKeyringInput,
    CreateAwsKmsHierarchicalKeyringInput,
    CreateAwsKmsKeyringInput,
    CreateAwsKmsMrkDiscoveryKeyringInput,
    CreateAwsKmsMrkKeyringInput,
    CreateMultiKeyringInput,
    CreateRawAesKeyringInput,
    CreateRawRsaKeyringInput,
    DiscoveryFilter,
    NoCache,
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
    if "hierarchical" in described:
        settings = CreateAwsKmsHierarchicalKeyringInput(
            key_store=key_store(json.dumps(described["store"])),
            branch_key_id=described["hierarchical"],
            # So that a rotation by another client shows at once.
            cache=CacheTypeNo(NoCache()),
            ttl_seconds=0,
        )
        return PROVIDERS.create_aws_kms_hierarchical_keyring(settings)
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


@functools.cache
def key_store(text):
    """The key store, made once for each description."""
    described = json.loads(text)
    region = described["kms_key"].split(":")[3]
    dynamodb = boto3.client(
        "dynamodb", region_name=region, endpoint_url=described["dynamodb"], verify=False
    )
    return KeyStore(
        config=KeyStoreConfig(
            ddb_table_name=described["table"],
            logical_key_store_name=described["logical_name"],
            kms_configuration=KMSConfigurationKmsKeyArn(value=described["kms_key"]),
            ddb_client=dynamodb,
            kms_client=kms_client(region, described),
        )
    )


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


def branch_key(request):
    """The answer to an operation on a branch key."""
    store = key_store(json.dumps(request["store"]))
    operation, name = request["operation"], request.get("id")
    if operation == "create_table":
        store.create_key_store(CreateKeyStoreInput())
        return {"id": request["store"]["table"]}
    if operation == "create_key":
        context = request["context"] or None
        created = store.create_key(
            CreateKeyInput(branch_key_identifier=name, encryption_context=context)
        )
        return {"id": created.branch_key_identifier}
    if operation == "rotate":
        store.version_key(VersionKeyInput(branch_key_identifier=name))
        return {"id": name}
    if operation == "beacon":
        made = store.get_beacon_key(GetBeaconKeyInput(branch_key_identifier=name))
        made = made.beacon_key_materials
        key, version = made.beacon_key, ""
    elif operation == "active":
        made = store.get_active_branch_key(GetActiveBranchKeyInput(branch_key_identifier=name))
        made = made.branch_key_materials
        key, version = made.branch_key, made.branch_key_version
    else:
        made = store.get_branch_key_version(
            GetBranchKeyVersionInput(
                branch_key_identifier=name, branch_key_version=request["version"]
            )
        ).branch_key_materials
        key, version = made.branch_key, made.branch_key_version
    if isinstance(version, bytes):
        version = version.decode()
    return {
        "key": base64.b64encode(bytes(key)).decode(),
        "version": version,
        "context": dict(made.encryption_context),
    }


def answer(request):
    if "store" in request:
        return branch_key(request)
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
