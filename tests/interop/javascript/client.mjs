// The AWS Encryption SDK for JavaScript as a peer: answers one JSON request per line of standard input, in the words
// that ../python_client.py explains. It compares no encryption context when it decrypts: that is left to who asks.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants } from "node:crypto";

import {
  BranchKeyStoreNode,
  CommitmentPolicy,
  KMS,
  KmsHierarchicalKeyRingNode,
  KmsKeyringNode,
  MultiKeyringNode,
  NodeAlgorithmSuite,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
  RawRsaKeyringNode,
  buildClient,
} from "@aws-crypto/client-node";
import { DynamoDBClient } from "@aws-sdk/client-dynamodb";

const COMMITTING = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
const FORBIDDING = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT);
// How many bytes a stream is given at once.
const PIECE = 1021;
const KEYRINGS = new Map();
const STORES = new Map();

// The keyring, made once for each description.
function keyring(described) {
  const name = JSON.stringify(described);
  if (!KEYRINGS.has(name)) KEYRINGS.set(name, newKeyring(described));
  return KEYRINGS.get(name);
}

function newKeyring(described) {
  if (described.aws_kms) {
    const client = kmsClient(described.aws_kms, described.endpoint);
    return new KmsKeyringNode({ generatorKeyId: described.aws_kms, clientProvider: () => client });
  }
  if (described.hierarchical) {
    return new KmsHierarchicalKeyRingNode({
      branchKeyId: described.hierarchical,
      keyStore: keyStore(described.store),
      cacheLimitTtl: 0.001, // seconds, so that a rotation by another client shows at once
      utf8Sorting: described.utf8_sorting ?? true, // its default is no other client's order
    });
  }
  if (described.multi) {
    const [generator, ...children] = described.multi.map((part) => part && keyring(part));
    return new MultiKeyringNode({ generator: generator ?? undefined, children });
  }
  if (described.raw_rsa) {
    const { namespace, name, padding, public_pem, private_pem } = described.raw_rsa;
    const oaepHash = padding.match(/^OAEP_(SHA\d+)_MGF1$/)?.[1].toLowerCase();
    return new RawRsaKeyringNode({
      keyNamespace: namespace,
      keyName: name,
      padding: oaepHash ? constants.RSA_PKCS1_OAEP_PADDING : constants.RSA_PKCS1_PADDING,
      oaepHash,
      rsaKey: { publicKey: public_pem, privateKey: private_pem },
    });
  }
  const { namespace, name, key } = described.raw_aes;
  const unencryptedMasterKey = Uint8Array.from(Buffer.from(key, "base64"));
  const bits = 8 * unencryptedMasterKey.length;
  return new RawAesKeyringNode({
    keyNamespace: namespace,
    keyName: name,
    unencryptedMasterKey,
    wrappingSuite: RawAesWrappingSuiteIdentifier[`AES${bits}_GCM_IV12_TAG16_NO_PADDING`],
    utf8Sorting: true, // its default, the order of UTF-16 units, is no other client's
  });
}

function kmsClient(arn, endpoint = process.env.AWS_ENDPOINT_URL_KMS) {
  const ca = process.env.AWS_CA_BUNDLE && readFileSync(process.env.AWS_CA_BUNDLE);
  return new KMS({ region: arn.split(":")[3], endpoint, requestHandler: { httpsAgent: { ca, keepAlive: true } } });
}

// The key store, made once for each description.
function keyStore(described) {
  const name = JSON.stringify(described);
  if (!STORES.has(name)) {
    const { table, logical_name: logicalKeyStoreName, dynamodb, kms_key: identifier, endpoint } = described;
    const ddbClient = new DynamoDBClient({ region: identifier.split(":")[3], endpoint: dynamodb });
    const store = new BranchKeyStoreNode({
      storage: { ddbTableName: table, ddbClient },
      logicalKeyStoreName,
      kmsConfiguration: { identifier },
      keyManagement: { kmsClient: kmsClient(identifier, endpoint) },
    });
    STORES.set(name, store);
  }
  return STORES.get(name);
}

// The answer to an operation on a branch key. This client creates no table and reads no beacon key.
async function branchKey({ operation, store: described, id, version, context }) {
  const store = keyStore(described);
  if (operation === "create_key") {
    const encryptionContext = Object.keys(context).length ? context : undefined;
    return { id: (await store.createKey({ branchKeyIdentifier: id, encryptionContext })).branchKeyIdentifier };
  }
  if (operation === "rotate") {
    await store.versionKey({ branchKeyIdentifier: id });
    return { id };
  }
  if (operation !== "active" && operation !== "version") throw new Error(`no operation ${operation}`);
  const made = await (operation === "active" ? store.getActiveBranchKey(id) : store.getBranchKeyVersion(id, version));
  return {
    key: Buffer.from(made.branchKey()).toString("base64"),
    version: Buffer.from(made.branchKeyVersion).toString(),
    context: made.encryptionContext,
  };
}

// What `stream` makes of `data`, which it is given piece by piece.
async function streamed(stream, data) {
  const pieces = [];
  for (let at = 0; at < data.length; at += PIECE) pieces.push(data.subarray(at, at + PIECE));
  const made = [];
  let messageHeader;
  stream.once("MessageHeader", (header) => (messageHeader = header));
  await pipeline(Readable.from(pieces), stream, async (source) => {
    for await (const piece of source) made.push(piece);
  });
  return [Buffer.concat(made), messageHeader];
}

async function whole(operation) {
  const { result, plaintext, messageHeader } = await operation;
  return [result ?? plaintext, messageHeader];
}

async function answer(request) {
  if (request.store) return branchKey(request);
  const { operation, streaming, frame_length: frameLength, context: encryptionContext } = request;
  const data = Buffer.from(request.data, "base64");
  const suite = new NodeAlgorithmSuite(request.suite ?? 0x0478);
  const client = suite.commitment === "KEY" ? COMMITTING : FORBIDDING;
  const keys = keyring(request.keyring);
  const settings = { suiteId: suite.id, encryptionContext, frameLength };
  // A stream would release what a signed message holds before the signature is verified: that has to be asked for.
  const decryptStream = suite.signatureCurve ? client.decryptStream : client.decryptUnsignedMessageStream;
  const encrypts = operation === "encrypt";
  const [made, { encryptionContext: context }] = streaming
    ? await streamed(encrypts ? client.encryptStream(keys, settings) : decryptStream(keys), data)
    : await whole(encrypts ? client.encrypt(keys, data, settings) : client.decrypt(keys, data));
  return { data: made.toString("base64"), context };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answered;
  try {
    answered = await answer(JSON.parse(line));
  } catch (error) {
    // Whatever the peer raises is its answer.
    answered = { error: `${error.name}: ${error.message}`.split("\n")[0] };
  }
  process.stdout.write(`${JSON.stringify(answered)}\n`);
}
