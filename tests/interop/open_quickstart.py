#!/usr/bin/env python3
"""Opens the message that `quickstart --save FILE` left, with the AWS Encryption SDK for Python.

python open_quickstart.py KEY-ARN FILE
"""

import base64
import pathlib
import sys

import python_client


def main():
    arn, file = sys.argv[1:]
    message = base64.b64encode(pathlib.Path(file).read_bytes()).decode()
    context = {"purpose": "card number", "tenant": "42"}
    request = {
        "operation": "decrypt",
        "keyring": {"aws_kms": arn},
        "context": context,
        "data": message,
    }
    answer = python_client.answer(request)
    plaintext = base64.b64decode(answer["data"]).decode()
    assert plaintext.startswith("card 4111 1111 1111 1111, payment "), plaintext
    assert answer["context"] == context, answer["context"]
    print(f"opened {file}: {plaintext!r}, {answer['context']}")


if __name__ == "__main__":
    main()
