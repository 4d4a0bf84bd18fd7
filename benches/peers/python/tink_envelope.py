"""Tink's envelope AEAD as a peer: a new data key for each message, under a local key."""

import importlib.metadata
import sys

import tink
from tink import aead

import worker

aead.register()
REMOTE = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
ENVELOPE = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, REMOTE)


def bound(context):
    """An encryption context as associated data."""
    return "".join(f"{key}={value};" for key, value in context.items()).encode()


def encrypt(plaintext, context):
    return ENVELOPE.encrypt(plaintext, bound(context))


def decrypt(message, context):
    return ENVELOPE.decrypt(message, bound(context))


worker.serve(
    f"tink {importlib.metadata.version('tink')}, Python {sys.version.split()[0]}", encrypt, decrypt
)
