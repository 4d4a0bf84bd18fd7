#!/usr/bin/env python3
"""Drives every operation of kms-local with boto3: once right, and in its documented wrong cases.

Start a server that has no keys yet, then run this against it:

    kms-local --ca-file ca.pem                      # prints the endpoint and an access key
    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... \\
        python kms_local_boto3.py --endpoint https://127.0.0.1:PORT --ca-file ca.pem

Prints one line per case and `N passed, N failed` last. Exits with 1 when a case failed.
"""

import argparse
import datetime
import json
import os
import sys
import traceback

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

CASES = []
UNKNOWN_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"


def case(function):
    """Registers a case. Its name, with spaces, is what it shows."""
    CASES.append(function)
    return function


class Server:
    """Where the server is, and how to reach it in ways right and wrong."""

    def __init__(self, options):
        self.options = options
        self.region = options.region
        self.credentials = boto3.Session().get_credentials().get_frozen_credentials()
        self.kms = self.client()
        self.account = self.kms.create_key()["KeyMetadata"]["AWSAccountId"]

    def client(self, **overrides):
        settings = {
            "region_name": self.region,
            "endpoint_url": self.options.endpoint,
            "verify": self.options.ca_file or None,
            "config": Config(retries={"total_max_attempts": 1}, parameter_validation=False),
            "aws_access_key_id": self.credentials.access_key,
            "aws_secret_access_key": self.credentials.secret_key,
            "aws_session_token": self.credentials.token,
        }
        return boto3.client("kms", **{**settings, **overrides})

    def key(self, **settings):
        """A new key's ARN."""
        return self.kms.create_key(**settings)["KeyMetadata"]["Arn"]

    def alias_arn(self, name):
        return f"arn:aws:kms:{self.region}:{self.account}:{name}"

    def raw(
        self,
        target="TrentService.GenerateRandom",
        body=b'{"NumberOfBytes":8}',
        service="kms",
        region=None,
        sign=True,
        skew=datetime.timedelta(),
        change=None,
    ):
        """Sends a request without boto3's client; returns its status, headers and error type."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        request = AWSRequest("POST", self.options.endpoint + "/", data=body, headers=headers)
        if sign:
            token = self.credentials.token
            key = Credentials(self.credentials.access_key, self.credentials.secret_key, token)
            SkewedAuth(key, service, region or self.region, skew).add_auth(request)
        if change:
            change(request)
        session = URLLib3Session(verify=self.options.ca_file or True)
        response = session.send(request.prepare())
        code = ""
        if response.status_code != 200:
            code = json.loads(response.content)["__type"]
        return response.status_code, response.headers, code


class SkewedAuth(SigV4Auth):
    """Signs as if the clock were off."""

    def __init__(self, credentials, service, region, skew):
        super().__init__(credentials, service, region)
        self.skew = skew

    def add_auth(self, request):
        now = datetime.datetime.now(datetime.timezone.utc) + self.skew
        request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        signature = self.signature(self.string_to_sign(request, canonical), request)
        self._inject_signature_to_request(request, signature)


def refused(code, call, *arguments, **settings):
    """Asserts that a call is refused with an error type."""
    try:
        answer = call(*arguments, **settings)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, f"refused with {found}, not {code}: {error}"
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status == 400, f"status {status}"
        return error
    raise AssertionError(f"not refused with {code}, but answered: {answer}")


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


# Keys


@case
def create_key_describes_the_key(server):
    answer = server.kms.create_key(Description="for cards", Tags=[{"TagKey": "a", "TagValue": "b"}])
    key = answer["KeyMetadata"]
    equal(key["Arn"], f"arn:aws:kms:{server.region}:{server.account}:key/{key['KeyId']}")
    equal(key["Description"], "for cards")
    equal((key["KeyState"], key["Enabled"]), ("Enabled", True))
    equal((key["KeyUsage"], key["Origin"]), ("ENCRYPT_DECRYPT", "AWS_KMS"))
    equal((key["KeyManager"], key["MultiRegion"]), ("CUSTOMER", False))
    equal((key["KeySpec"], key["CustomerMasterKeySpec"]), ("SYMMETRIC_DEFAULT",) * 2)
    equal(key["EncryptionAlgorithms"], ["SYMMETRIC_DEFAULT"])
    assert isinstance(key["CreationDate"], datetime.datetime)
    assert answer["ResponseMetadata"]["RequestId"], "no request id"


@case
def create_key_refuses_other_key_specs(server):
    refused("UnsupportedOperationException", server.kms.create_key, KeySpec="RSA_2048")


@case
def create_key_refuses_other_usages(server):
    refused("UnsupportedOperationException", server.kms.create_key, KeyUsage="SIGN_VERIFY")


@case
def create_key_refuses_unknown_usages(server):
    refused("ValidationException", server.kms.create_key, KeyUsage="NONSENSE")


@case
def create_key_makes_multi_region_keys(server):
    key = server.kms.create_key(MultiRegion=True)["KeyMetadata"]
    assert key["KeyId"].startswith("mrk-"), key["KeyId"]
    related = key["MultiRegionConfiguration"]
    equal((key["MultiRegion"], related["MultiRegionKeyType"]), (True, "PRIMARY"))
    equal(related["PrimaryKey"], {"Arn": key["Arn"], "Region": server.region})


@case
def create_key_refuses_imported_material(server):
    refused("UnsupportedOperationException", server.kms.create_key, Origin="EXTERNAL")


@case
def create_key_refuses_a_long_description(server):
    refused("ValidationException", server.kms.create_key, Description="x" * 8193)


@case
def describe_key_takes_all_four_names(server):
    arn = server.key()
    server.kms.create_alias(AliasName="alias/describe", TargetKeyId=arn)
    names = [arn, arn.split("/")[1], "alias/describe", server.alias_arn("alias/describe")]
    for name in names:
        equal(server.kms.describe_key(KeyId=name)["KeyMetadata"]["Arn"], arn)


@case
def describe_key_does_not_find_unknown_names(server):
    arn = server.key()
    elsewhere = arn.replace(server.region, "mars-north-1")
    other_account = arn.replace(server.account, "999999999999")
    for name in [UNKNOWN_ID, "nonsense", "alias/none", elsewhere, other_account]:
        refused("NotFoundException", server.kms.describe_key, KeyId=name)


@case
def describe_key_needs_a_key(server):
    refused("ValidationException", server.kms.describe_key)


@case
def list_keys_pages_through_all(server):
    made = {server.key() for _ in range(5)}
    pages = server.kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
    listed = [key["KeyArn"] for page in pages for key in page["Keys"]]
    equal(len(listed), len(set(listed)))
    assert made <= set(listed), "a key is missing"


@case
def list_keys_refuses_limits_out_of_bounds(server):
    for limit in [0, 1001]:
        refused("ValidationException", server.kms.list_keys, Limit=limit)


@case
def list_keys_refuses_a_foreign_marker(server):
    refused("InvalidMarkerException", server.kms.list_keys, Marker="nonsense")


@case
def disable_and_enable_key(server):
    key = server.key()
    blob = server.kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    server.kms.disable_key(KeyId=key)
    equal(server.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"], "Disabled")
    disabled = "DisabledException"
    refused(disabled, server.kms.encrypt, KeyId=key, Plaintext=b"x")
    refused(disabled, server.kms.decrypt, CiphertextBlob=blob)
    refused(disabled, server.kms.generate_data_key, KeyId=key, KeySpec="AES_256")
    refused(disabled, server.kms.generate_data_key_without_plaintext, KeyId=key, KeySpec="AES_256")
    refused(disabled, server.kms.re_encrypt, CiphertextBlob=blob, DestinationKeyId=key)
    server.kms.enable_key(KeyId=key)
    equal(server.kms.decrypt(CiphertextBlob=blob)["Plaintext"], b"x")


@case
def key_states_are_not_changed_by_alias(server):
    server.kms.create_alias(AliasName="alias/states", TargetKeyId=server.key())
    for change in [
        server.kms.enable_key,
        server.kms.disable_key,
        server.kms.schedule_key_deletion,
        server.kms.cancel_key_deletion,
    ]:
        refused("NotFoundException", change, KeyId="alias/states")


@case
def key_states_of_unknown_keys_are_not_changed(server):
    for change in [
        server.kms.enable_key,
        server.kms.disable_key,
        server.kms.schedule_key_deletion,
        server.kms.cancel_key_deletion,
    ]:
        refused("NotFoundException", change, KeyId=UNKNOWN_ID)


@case
def schedule_and_cancel_key_deletion(server):
    key = server.key()
    answer = server.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    equal((answer["KeyId"], answer["KeyState"]), (key, "PendingDeletion"))
    equal(answer["PendingWindowInDays"], 7)
    days = answer["DeletionDate"] - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(days=6, hours=23) < days <= datetime.timedelta(days=7), days
    invalid = "KMSInvalidStateException"
    refused(invalid, server.kms.encrypt, KeyId=key, Plaintext=b"x")
    refused(invalid, server.kms.enable_key, KeyId=key)
    refused(invalid, server.kms.disable_key, KeyId=key)
    refused(invalid, server.kms.schedule_key_deletion, KeyId=key)
    refused(invalid, server.kms.create_alias, AliasName="alias/late", TargetKeyId=key)
    equal(server.kms.cancel_key_deletion(KeyId=key)["KeyId"], key)
    equal(server.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"], "Disabled")
    refused(invalid, server.kms.cancel_key_deletion, KeyId=key)


@case
def schedule_key_deletion_defaults_to_30_days(server):
    equal(server.kms.schedule_key_deletion(KeyId=server.key())["PendingWindowInDays"], 30)


@case
def schedule_key_deletion_refuses_windows_out_of_bounds(server):
    key = server.key()
    for days in [6, 31]:
        schedule = server.kms.schedule_key_deletion
        refused("ValidationException", schedule, KeyId=key, PendingWindowInDays=days)


# Aliases


@case
def create_update_and_delete_alias(server):
    first, second = server.key(), server.key()
    server.kms.create_alias(AliasName="alias/moves", TargetKeyId=first)
    equal(server.kms.encrypt(KeyId="alias/moves", Plaintext=b"x")["KeyId"], first)
    server.kms.update_alias(AliasName="alias/moves", TargetKeyId=second)
    equal(server.kms.encrypt(KeyId="alias/moves", Plaintext=b"x")["KeyId"], second)
    server.kms.delete_alias(AliasName="alias/moves")
    refused("NotFoundException", server.kms.encrypt, KeyId="alias/moves", Plaintext=b"x")


@case
def create_alias_refuses_a_taken_name(server):
    create, key = server.kms.create_alias, server.key()
    create(AliasName="alias/taken", TargetKeyId=key)
    refused("AlreadyExistsException", create, AliasName="alias/taken", TargetKeyId=key)


@case
def create_alias_refuses_names_of_aws(server):
    create = server.kms.create_alias
    refused("NotAuthorizedException", create, AliasName="alias/aws/ebs", TargetKeyId=server.key())


@case
def create_alias_refuses_names_of_another_form(server):
    create, key = server.kms.create_alias, server.key()
    for name in ["app", "alias/", "alias/a:b", "alias/ä", "alias/" + "x" * 251]:
        refused("ValidationException", create, AliasName=name, TargetKeyId=key)


@case
def create_alias_refuses_an_alias_as_target(server):
    server.kms.create_alias(AliasName="alias/target", TargetKeyId=server.key())
    create = server.kms.create_alias
    refused("ValidationException", create, AliasName="alias/two", TargetKeyId="alias/target")


@case
def create_alias_does_not_find_an_unknown_target(server):
    create = server.kms.create_alias
    refused("NotFoundException", create, AliasName="alias/unknown", TargetKeyId=UNKNOWN_ID)


@case
def update_and_delete_do_not_find_an_unknown_alias(server):
    update = server.kms.update_alias
    refused("NotFoundException", update, AliasName="alias/none", TargetKeyId=server.key())
    refused("NotFoundException", server.kms.delete_alias, AliasName="alias/none")


@case
def list_aliases_pages_and_filters_by_key(server):
    key, other = server.key(), server.key()
    for name in ["a", "b", "c"]:
        server.kms.create_alias(AliasName=f"alias/list/{name}", TargetKeyId=key)
    server.kms.create_alias(AliasName="alias/list/d", TargetKeyId=other)
    pages = server.kms.get_paginator("list_aliases")
    pages = pages.paginate(KeyId=key, PaginationConfig={"PageSize": 2})
    listed = [alias for page in pages for alias in page["Aliases"]]
    equal([alias["AliasName"] for alias in listed], [f"alias/list/{name}" for name in "abc"])
    equal(listed[0]["AliasArn"], server.alias_arn("alias/list/a"))
    equal(listed[0]["TargetKeyId"], key.split("/")[1])


@case
def list_aliases_refuses_what_is_wrong(server):
    refused("ValidationException", server.kms.list_aliases, Limit=101)
    refused("InvalidMarkerException", server.kms.list_aliases, Marker="nonsense")
    refused("NotFoundException", server.kms.list_aliases, KeyId=UNKNOWN_ID)


# Cryptography


@case
def encrypt_and_decrypt_by_all_four_names(server):
    arn = server.key()
    server.kms.create_alias(AliasName="alias/crypt", TargetKeyId=arn)
    context = {"purpose": "test", "ä": "ö"}
    for name in [arn, arn.split("/")[1], "alias/crypt", server.alias_arn("alias/crypt")]:
        sealed = server.kms.encrypt(KeyId=name, Plaintext=b"secret", EncryptionContext=context)
        equal((sealed["KeyId"], sealed["EncryptionAlgorithm"]), (arn, "SYMMETRIC_DEFAULT"))
        blob = sealed["CiphertextBlob"]
        for named in [{}, {"KeyId": name}]:
            opened = server.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context, **named)
            equal((opened["Plaintext"], opened["KeyId"]), (b"secret", arn))


@case
def encrypt_takes_1_to_4096_bytes(server):
    key = server.key()
    for length in [1, 4096]:
        blob = server.kms.encrypt(KeyId=key, Plaintext=b"x" * length)["CiphertextBlob"]
        equal(server.kms.decrypt(CiphertextBlob=blob)["Plaintext"], b"x" * length)
    for length in [0, 4097]:
        refused("ValidationException", server.kms.encrypt, KeyId=key, Plaintext=b"x" * length)


@case
def encrypt_refuses_other_algorithms(server):
    key = server.key()
    for algorithm, code in [
        ("RSAES_OAEP_SHA_256", "InvalidKeyUsageException"),
        ("ROT13", "ValidationException"),
    ]:
        refused(code, server.kms.encrypt, KeyId=key, Plaintext=b"x", EncryptionAlgorithm=algorithm)


@case
def encrypt_does_not_find_an_unknown_key(server):
    refused("NotFoundException", server.kms.encrypt, KeyId="alias/none", Plaintext=b"x")


@case
def decrypt_refuses_another_context(server):
    sealed = server.kms.encrypt(KeyId=server.key(), Plaintext=b"x", EncryptionContext={"ab": "c"})
    blob = sealed["CiphertextBlob"]
    for context in [{}, {"a": "bc"}, {"ab": "d"}, {"ab": "c", "d": "e"}]:
        decrypt = server.kms.decrypt
        refused(
            "InvalidCiphertextException", decrypt, CiphertextBlob=blob, EncryptionContext=context
        )


@case
def decrypt_refuses_a_changed_blob(server):
    blob = server.kms.encrypt(KeyId=server.key(), Plaintext=b"x")["CiphertextBlob"]
    changed = blob[:-1] + bytes([blob[-1] ^ 1])
    for wrong in [changed, blob[:-1], blob + b"x", b"nonsense"]:
        refused("InvalidCiphertextException", server.kms.decrypt, CiphertextBlob=wrong)


@case
def decrypt_refuses_blobs_out_of_bounds(server):
    for blob in [b"", b"x" * 6145]:
        refused("ValidationException", server.kms.decrypt, CiphertextBlob=blob)


@case
def decrypt_refuses_another_key(server):
    blob = server.kms.encrypt(KeyId=server.key(), Plaintext=b"x")["CiphertextBlob"]
    decrypt = server.kms.decrypt
    refused("IncorrectKeyException", decrypt, CiphertextBlob=blob, KeyId=server.key())
    refused("NotFoundException", decrypt, CiphertextBlob=blob, KeyId=UNKNOWN_ID)


@case
def re_encrypt_changes_key_and_context(server):
    source, destination = server.key(), server.key()
    sealed = server.kms.encrypt(KeyId=source, Plaintext=b"x", EncryptionContext={"a": "1"})
    moved = server.kms.re_encrypt(
        CiphertextBlob=sealed["CiphertextBlob"],
        SourceEncryptionContext={"a": "1"},
        DestinationKeyId=destination,
        DestinationEncryptionContext={"b": "2"},
    )
    equal((moved["SourceKeyId"], moved["KeyId"]), (source, destination))
    equal(moved["SourceEncryptionAlgorithm"], "SYMMETRIC_DEFAULT")
    equal(moved["DestinationEncryptionAlgorithm"], "SYMMETRIC_DEFAULT")
    opened = server.kms.decrypt(
        CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"}
    )
    equal((opened["Plaintext"], opened["KeyId"]), (b"x", destination))


@case
def re_encrypt_refuses_what_is_wrong(server):
    source, other = server.key(), server.key()
    blob = server.kms.encrypt(KeyId=source, Plaintext=b"x")["CiphertextBlob"]
    call, right = server.kms.re_encrypt, {"CiphertextBlob": blob, "DestinationKeyId": other}
    refused("InvalidCiphertextException", call, **right, SourceEncryptionContext={"a": "1"})
    refused("IncorrectKeyException", call, **right, SourceKeyId=other)
    refused("NotFoundException", call, **{**right, "DestinationKeyId": "alias/none"})
    refused("ValidationException", call, CiphertextBlob=blob)


@case
def generate_data_key_by_spec_and_by_length(server):
    key = server.key()
    for size, length in [
        ({"KeySpec": "AES_256"}, 32),
        ({"KeySpec": "AES_128"}, 16),
        ({"NumberOfBytes": 1}, 1),
        ({"NumberOfBytes": 1024}, 1024),
    ]:
        made = server.kms.generate_data_key(KeyId=key, EncryptionContext={"a": "b"}, **size)
        equal((made["KeyId"], len(made["Plaintext"])), (key, length))
        opened = server.kms.decrypt(
            CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "b"}
        )
        equal(opened["Plaintext"], made["Plaintext"])


@case
def generate_data_key_without_plaintext_hides_it(server):
    made = server.kms.generate_data_key_without_plaintext(KeyId=server.key(), KeySpec="AES_256")
    assert "Plaintext" not in made, "the plaintext shows"
    opened = server.kms.decrypt(CiphertextBlob=made["CiphertextBlob"])
    equal(len(opened["Plaintext"]), 32)


@case
def data_keys_need_one_length_within_bounds(server):
    key = server.key()
    for call in [server.kms.generate_data_key, server.kms.generate_data_key_without_plaintext]:
        for size in [
            {},
            {"NumberOfBytes": 0},
            {"NumberOfBytes": 1025},
            {"KeySpec": "AES_512"},
            {"KeySpec": "AES_256", "NumberOfBytes": 32},
        ]:
            refused("ValidationException", call, KeyId=key, **size)


@case
def data_keys_need_a_known_key(server):
    for call in [server.kms.generate_data_key, server.kms.generate_data_key_without_plaintext]:
        refused("NotFoundException", call, KeyId=UNKNOWN_ID, KeySpec="AES_256")


@case
def generate_random_gives_1_to_1024_bytes(server):
    for length in [1, 1024]:
        equal(len(server.kms.generate_random(NumberOfBytes=length)["Plaintext"]), length)
    for wrong in [{}, {"NumberOfBytes": 0}, {"NumberOfBytes": 1025}]:
        refused("ValidationException", server.kms.generate_random, **wrong)


@case
def dry_runs_change_nothing_and_say_so(server):
    key = server.key()
    blob = server.kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    dry = "DryRunOperationException"
    refused(dry, server.kms.encrypt, KeyId=key, Plaintext=b"x", DryRun=True)
    refused(dry, server.kms.decrypt, CiphertextBlob=blob, DryRun=True)
    refused(dry, server.kms.re_encrypt, CiphertextBlob=blob, DestinationKeyId=key, DryRun=True)
    refused(dry, server.kms.generate_data_key, KeyId=key, KeySpec="AES_256", DryRun=True)
    hidden = server.kms.generate_data_key_without_plaintext
    refused(dry, hidden, KeyId=key, KeySpec="AES_256", DryRun=True)
    refused("NotFoundException", hidden, KeyId=UNKNOWN_ID, KeySpec="AES_256", DryRun=True)


@case
def grant_tokens_are_accepted(server):
    key = server.key()
    server.kms.generate_data_key(KeyId=key, KeySpec="AES_256", GrantTokens=["token"])


# Signatures and protocol


@case
def an_unknown_access_key_is_refused(server):
    stranger = server.client(aws_access_key_id="AKIAXXXXXXXXXXXXXXXX")
    refused("UnrecognizedClientException", stranger.list_keys)


@case
def a_wrong_secret_is_refused(server):
    wrong = server.client(aws_secret_access_key="wrong")
    refused("InvalidSignatureException", wrong.list_keys)


@case
def a_wrong_session_token_is_refused(server):
    wrong = server.client(aws_session_token="wrong")
    refused("UnrecognizedClientException", wrong.list_keys)


@case
def another_region_is_refused(server):
    wrong = server.client(region_name="mars-north-1")
    error = refused("InvalidSignatureException", wrong.list_keys)
    assert "Credential should be scoped to a valid region." in str(error), error


@case
def another_service_is_refused(server):
    equal(server.raw(service="s3")[2], "InvalidSignatureException")


@case
def a_request_by_hand_is_answered(server):
    status, headers, _ = server.raw()
    equal(status, 200)
    equal(headers["content-type"], "application/x-amz-json-1.1")
    assert headers["x-amzn-requestid"], "no request id"


@case
def a_clock_off_by_more_than_five_minutes_is_refused(server):
    for minutes, status in [(-4, 200), (4, 200), (-6, 400), (6, 400)]:
        answer = server.raw(skew=datetime.timedelta(minutes=minutes))
        equal(answer[0], status)
        if status == 400:
            equal(answer[2], "InvalidSignatureException")


@case
def a_missing_signature_is_refused(server):
    equal(server.raw(sign=False)[2], "MissingAuthenticationTokenException")


@case
def an_incomplete_signature_is_refused(server):
    def shorten(request):
        authorization = request.headers["Authorization"]
        del request.headers["Authorization"]
        request.headers["Authorization"] = authorization.split(", Signature=")[0]

    equal(server.raw(change=shorten)[2], "IncompleteSignatureException")


@case
def a_body_that_was_not_signed_is_refused(server):
    def replace(request):
        request.data = b'{"NumberOfBytes":9}'

    equal(server.raw(change=replace)[2], "InvalidSignatureException")


@case
def what_is_no_json_is_refused(server):
    equal(server.raw(body=b"{")[2], "SerializationException")
    equal(server.raw(body=b'{"NumberOfBytes":"8"}')[2], "SerializationException")


@case
def an_unknown_operation_is_refused(server):
    equal(server.raw(target="TrentService.Sign", body=b"{}")[2], "UnknownOperationException")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", required=True, help="URL of the server")
    parser.add_argument("--ca-file", help="the server's certificate authority, as PEM")
    parser.add_argument("--region", default="us-east-1", help="region of the server")
    options = parser.parse_args()
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        parser.error("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

    server = Server(options)
    failed = 0
    for run in CASES:
        name = run.__name__.replace("_", " ")
        try:
            run(server)
            print(f"ok      {name}")
        except Exception:
            failed += 1
            print(f"FAILED  {name}")
            traceback.print_exc(file=sys.stdout)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
