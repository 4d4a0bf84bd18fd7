// The AWS Encryption SDK for JavaScript as a peer, with a warm caching manager. `worker.py` says what it answers to what.
//
//     worker.mjs             under a raw AES key
//     worker.mjs KEY-ARN     under a key of the KMS that the environment names

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import {
  AlgorithmSuiteIdentifier,
  CommitmentPolicy,
  KMS,
  KmsKeyringNode,
  NodeCachingMaterialsManager,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
  buildClient,
  getLocalCryptographicMaterialsCache,
} from "@aws-crypto/client-node";

const CONTEXT = { tenant: "42" };
const CLIENT = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
const SETTINGS = { suiteId: AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY, frameLength: 4096 };

const MANAGER = new NodeCachingMaterialsManager({
  backingMaterials: process.argv[2] ? awsKms(process.argv[2]) : rawAes(),
  cache: getLocalCryptographicMaterialsCache(1000),
  maxAge: 3_600_000,
});
const MESSAGES = new Map();

function rawAes() {
  return new RawAesKeyringNode({
    keyNamespace: "peers",
    keyName: "key",
    unencryptedMasterKey: new Uint8Array(32).fill(7),
    wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  });
}

function awsKms(generatorKeyId) {
  const ca = readFileSync(process.env.AWS_CA_BUNDLE);
  const requestHandler = { httpsAgent: { ca, keepAlive: true } };
  const region = generatorKeyId.split(":")[3];
  const client = new KMS({ region, endpoint: process.env.AWS_ENDPOINT_URL_KMS, requestHandler });
  return new KmsKeyringNode({ generatorKeyId, clientProvider: () => client });
}

async function encrypt(plaintext, encryptionContext) {
  const { result } = await CLIENT.encrypt(MANAGER, plaintext, {
    ...SETTINGS,
    encryptionContext,
    plaintextLength: plaintext.length,
  });
  return result;
}

async function decrypt(message, encryptionContext) {
  const { plaintext, messageHeader } = await CLIENT.decrypt(MANAGER, message);
  // This client leaves the comparison to who calls it.
  for (const [key, value] of Object.entries(encryptionContext))
    if (messageHeader.encryptionContext[key] !== value) throw new Error("another encryption context");
  return plaintext;
}

async function sealed(size) {
  if (!MESSAGES.has(size)) MESSAGES.set(size, await encrypt(Buffer.alloc(size), CONTEXT));
  return MESSAGES.get(size);
}

async function timed(call, data, repeats) {
  const started = process.hrtime.bigint();
  for (let repeat = 0; repeat < repeats; repeat++) await call(data, CONTEXT);
  return Number(process.hrtime.bigint() - started) / repeats;
}

async function answer([operation, first, second]) {
  switch (operation) {
    case "encrypt":
      return timed(encrypt, Buffer.alloc(Number(first)), Number(second));
    case "decrypt":
      return timed(decrypt, await sealed(Number(first)), Number(second));
    case "seal":
      return (await encrypt(Buffer.from(first, "hex"), CONTEXT)).toString("hex");
    case "open":
      return (await decrypt(Buffer.from(first, "hex"), CONTEXT)).toString("hex");
    case "messages":
      for (let number = 0; number < Number(first); number++) {
        const context = { tenant: String(number % Number(second)) };
        await decrypt(await encrypt(Buffer.alloc(1024), context), context);
      }
      return first;
    default:
      throw new Error(`no operation ${operation}`);
  }
}

const { version } = createRequire(import.meta.url)("@aws-crypto/client-node/package.json");
console.log(`@aws-crypto/client-node ${version}, Node.js ${process.versions.node}`);
for await (const line of createInterface({ input: process.stdin })) console.log(await answer(line.split(" ")));
