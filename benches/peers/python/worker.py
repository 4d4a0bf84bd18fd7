"""The protocol of all peers: one line of standard input is one order.

`src/worker.rs` implements it in Rust.

encrypt SIZE REPEATS 1      the nanoseconds of one encryption of SIZE bytes
decrypt SIZE REPEATS 1      the same for decryption
seal HEX / open HEX         one message there, one message back
messages COUNT CONTEXTS     seals and opens COUNT messages, cycling through this many contexts
"""

import sys
import time

CONTEXT = {"tenant": "42"}


def serve(version, encrypt, decrypt):
    """Answers until standard input ends.

    `encrypt` and `decrypt` take bytes and an encryption context.
    """
    messages = {}

    def sealed(size):
        if size not in messages:
            messages[size] = bytes(encrypt(bytes(size), CONTEXT))
        return messages[size]

    def timed(call, data, repeats):
        started = time.perf_counter_ns()
        for _ in range(repeats):
            call(data, CONTEXT)
        return (time.perf_counter_ns() - started) / repeats

    def answer(operation, *words):
        if operation == "encrypt":
            return timed(encrypt, bytes(int(words[0])), int(words[1]))
        if operation == "decrypt":
            return timed(decrypt, sealed(int(words[0])), int(words[1]))
        if operation == "seal":
            return bytes(encrypt(bytes.fromhex(words[0]), CONTEXT)).hex()
        if operation == "open":
            return bytes(decrypt(bytes.fromhex(words[0]), CONTEXT)).hex()
        if operation == "messages":
            count, contexts = int(words[0]), int(words[1])
            for number in range(count):
                context = {"tenant": str(number % contexts)}
                decrypt(encrypt(bytes(1024), context), context)
            return count
        raise ValueError(f"no operation {operation}")

    print(version, flush=True)
    for line in sys.stdin:
        print(answer(*line.split()), flush=True)
