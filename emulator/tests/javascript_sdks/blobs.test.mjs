// Use the emulator with the unmodified @azure/storage-blob for JavaScript.
//
// `conformance.py` starts the emulator and sets BLOB_CONNECTION_STRING, BLOB_ACCOUNT and BLOB_KEY.
// The package is licensed under the MIT licence; none of its code is copied here.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";
import { test } from "node:test";
import {
  BlobSASPermissions,
  BlobServiceClient,
  BlockBlobClient,
  generateBlobSASQueryParameters,
  StorageSharedKeyCredential,
} from "@azure/storage-blob";

const { BLOB_CONNECTION_STRING, BLOB_ACCOUNT, BLOB_KEY } = process.env;
const ONCE = { retryOptions: { maxTries: 1 } };
const service = BlobServiceClient.fromConnectionString(BLOB_CONNECTION_STRING, ONCE);
const credential = new StorageSharedKeyCredential(BLOB_ACCOUNT, BLOB_KEY);

async function createContainer() {
  const container = service.getContainerClient(`container-${randomUUID()}`);
  await container.create();
  return container;
}

async function createBlob(text = "hello", options = {}) {
  const blob = (await createContainer()).getBlockBlobClient("a/one.txt");
  await blob.upload(text, Buffer.byteLength(text), options);
  return blob;
}

async function textOf(blob, ...range) {
  return (await blob.downloadToBuffer(...range)).toString();
}

async function namesOf(items) {
  const names = [];
  for await (const item of items) names.push(item.name);
  return names;
}

function failsWith(statusCode, code) {
  return (error) => {
    assert.equal(error.statusCode, statusCode, error.message);
    assert.equal(error.code, code, error.message);
    return true;
  };
}

// A client of the same blob with a signed URL instead of the key.
function signed(blob, permissions, secondsUntilEnd) {
  const token = generateBlobSASQueryParameters(
    {
      containerName: blob.containerName,
      blobName: blob.name,
      permissions: BlobSASPermissions.parse(permissions),
      expiresOn: new Date(Date.now() + secondsUntilEnd * 1000),
    },
    credential,
  );
  return new BlockBlobClient(`${blob.url}?${token}`, undefined, ONCE);
}

test("a blob is downloaded as uploaded", async () => {
  const blob = await createBlob("héllo");
  assert.equal(await textOf(blob), "héllo");
  const answer = await blob.download();
  const pieces = [];
  for await (const piece of answer.readableStreamBody) pieces.push(piece);
  assert.equal(Buffer.concat(pieces).toString(), "héllo");
  assert.equal(answer.contentLength, 6);
});

test("an empty blob is downloaded", async () => {
  assert.equal(await textOf(await createBlob("")), "");
});

test("a large blob is uploaded in parallel blocks", async () => {
  const blob = (await createContainer()).getBlockBlobClient("large");
  const data = Buffer.alloc(5 * 1024 * 1024 + 1, "abcdefg");
  const options = { blockSize: 1024 * 1024, maxSingleShotSize: 1024, concurrency: 4 };
  await blob.uploadData(data, options);
  assert.equal((await blob.getBlockList("committed")).committedBlocks.length, 6);
  assert.ok((await blob.downloadToBuffer(0, undefined, { blockSize: 1024 * 1024 })).equals(data));
});

test("a stream is uploaded", async () => {
  const blob = (await createContainer()).getBlockBlobClient("stream");
  await blob.uploadStream(Readable.from([Buffer.alloc(3000, "x"), Buffer.from("end")]), 1024, 2);
  assert.equal(await textOf(blob), `${"x".repeat(3000)}end`);
});

test("blocks are staged and committed in the given order", async () => {
  const blob = (await createContainer()).getBlockBlobClient("blocks");
  const [one, two] = ["1", "2"].map((id) => Buffer.from(id).toString("base64"));
  await blob.stageBlock(one, "one", 3);
  await blob.stageBlock(two, "two", 3);
  assert.equal((await blob.getBlockList("uncommitted")).uncommittedBlocks.length, 2);
  await blob.commitBlockList([two, one]);
  assert.equal(await textOf(blob), "twoone");
});

test("a range of a blob is downloaded", async () => {
  const blob = await createBlob("0123456789");
  assert.equal(await textOf(blob, 2, 3), "234");
  assert.equal(await textOf(blob, 7), "789");
  const answer = await blob.download(2, 3);
  assert.equal(answer.contentRange, "bytes 2-4/10");
  answer.readableStreamBody.destroy();
});

test("a range after the end of a blob is refused", async () => {
  const blob = await createBlob("0123456789");
  await assert.rejects(blob.download(10, 1), failsWith(416, "InvalidRange"));
});

test("headers and metadata are kept and changed", async () => {
  const blob = await createBlob("hello", {
    blobHTTPHeaders: { blobContentType: "text/plain", blobCacheControl: "no-cache" },
    metadata: { colour: "green" },
  });
  const before = await blob.getProperties();
  assert.equal(before.contentType, "text/plain");
  assert.equal(before.cacheControl, "no-cache");
  assert.deepEqual(before.metadata, { colour: "green" });
  await blob.setMetadata({ size: "5" });
  await blob.setHTTPHeaders({ blobContentType: "text/html" });
  const after = await blob.getProperties();
  assert.equal(after.contentType, "text/html");
  assert.equal(after.cacheControl, undefined);
  assert.deepEqual(after.metadata, { size: "5" });
  assert.notEqual(after.etag, before.etag);
});

test("blobs are listed by prefix and in pages", async () => {
  const container = await createContainer();
  const names = ["a/1", "a/2", "a/3", "b/1"];
  for (const name of names) await container.getBlockBlobClient(name).upload("", 0);
  assert.deepEqual(await namesOf(container.listBlobsFlat()), names);
  assert.deepEqual(await namesOf(container.listBlobsFlat({ prefix: "a/" })), names.slice(0, 3));
  const sizes = [];
  for await (const page of container.listBlobsFlat().byPage({ maxPageSize: 3 })) {
    sizes.push(page.segment.blobItems.length);
  }
  assert.deepEqual(sizes, [3, 1]);
});

test("blobs are listed by hierarchy", async () => {
  const container = await createContainer();
  for (const name of ["a/1", "a/2", "top"]) await container.getBlockBlobClient(name).upload("", 0);
  const found = [];
  for await (const item of container.listBlobsByHierarchy("/")) found.push([item.kind, item.name]);
  assert.deepEqual(found, [["prefix", "a/"], ["blob", "top"]]);
});

test("containers are listed by prefix and deleted", async () => {
  const container = await createContainer();
  const prefix = container.containerName;
  assert.deepEqual(await namesOf(service.listContainers({ prefix })), [prefix]);
  await container.delete();
  assert.equal(await container.exists(), false);
});

test("a deleted blob no longer exists", async () => {
  const blob = await createBlob();
  assert.equal(await blob.exists(), true);
  await blob.delete();
  assert.equal(await blob.exists(), false);
  assert.equal((await blob.deleteIfExists()).succeeded, false);
  await assert.rejects(blob.delete(), failsWith(404, "BlobNotFound"));
});

test("an upload on condition that the blob is new fails if the blob exists", async () => {
  const blob = await createBlob();
  const uploading = blob.upload("again", 5, { conditions: { ifNoneMatch: "*" } });
  await assert.rejects(uploading, failsWith(409, "BlobAlreadyExists"));
  assert.equal(await textOf(blob), "hello");
});

test("a write on condition of an old ETag fails", async () => {
  const blob = await createBlob();
  const { etag } = await blob.getProperties();
  await blob.upload("second", 6, { conditions: { ifMatch: etag } });
  const writing = blob.upload("third", 5, { conditions: { ifMatch: etag } });
  await assert.rejects(writing, failsWith(412, "ConditionNotMet"));
  const deleting = blob.delete({ conditions: { ifMatch: etag } });
  await assert.rejects(deleting, failsWith(412, "ConditionNotMet"));
  assert.equal(await textOf(blob), "second");
});

test("an unchanged blob is not downloaded again", async () => {
  const blob = await createBlob();
  const { etag } = await blob.getProperties();
  const downloading = blob.download(0, undefined, { conditions: { ifNoneMatch: etag } });
  await assert.rejects(downloading, (error) => error.statusCode === 304);
});

test("a signed URL permits only what was signed", async () => {
  const blob = await createBlob();
  const reader = signed(blob, "r", 60);
  assert.equal(await textOf(reader), "hello");
  const uploading = reader.upload("changed", 7);
  await assert.rejects(uploading, failsWith(403, "AuthorizationPermissionMismatch"));
  const writer = signed(blob, "cw", 60);
  await writer.upload("changed", 7);
  const reading = writer.download();
  await assert.rejects(reading, failsWith(403, "AuthorizationPermissionMismatch"));
  assert.equal(await textOf(blob), "changed");
});

test("an expired signed URL is refused", async () => {
  const reading = signed(await createBlob(), "r", -60).download();
  await assert.rejects(reading, failsWith(403, "AuthenticationFailed"));
});

test("a wrong key is refused", async () => {
  const wrong = BLOB_CONNECTION_STRING.replace(/AccountKey=[^;]*/, "AccountKey=d3Jvbmc=");
  const stranger = BlobServiceClient.fromConnectionString(wrong, ONCE);
  const creating = stranger.getContainerClient("stranger").create();
  await assert.rejects(creating, failsWith(403, "AuthenticationFailed"));
});

test("operations on what does not exist fail", async () => {
  const absent = service.getContainerClient(`absent-${randomUUID()}`);
  await assert.rejects(absent.getProperties(), (error) => error.statusCode === 404);
  const uploading = absent.getBlockBlobClient("blob").upload("", 0);
  await assert.rejects(uploading, failsWith(404, "ContainerNotFound"));
  const reading = (await createContainer()).getBlockBlobClient("absent").download();
  await assert.rejects(reading, failsWith(404, "BlobNotFound"));
});

test("a container cannot be created twice", async () => {
  const container = await createContainer();
  await assert.rejects(container.create(), failsWith(409, "ContainerAlreadyExists"));
});

test("blocks are appended to an append blob", async () => {
  const blob = (await createContainer()).getAppendBlobClient("log");
  await blob.create();
  await blob.appendBlock("one ", 4);
  const answer = await blob.appendBlock("two", 3, { conditions: { appendPosition: 4 } });
  assert.equal(answer.blobCommittedBlockCount, 2);
  const late = blob.appendBlock("two", 3, { conditions: { appendPosition: 4 } });
  await assert.rejects(late, failsWith(412, "AppendPositionConditionNotMet"));
  assert.equal(await textOf(blob), "one two");
});

test("a leased blob is written only with the lease", async () => {
  const blob = await createBlob();
  const lease = blob.getBlobLeaseClient();
  await lease.acquireLease(15);
  await assert.rejects(blob.upload("new", 3), failsWith(412, "LeaseIdMissing"));
  const second = blob.getBlobLeaseClient().acquireLease(15);
  await assert.rejects(second, failsWith(409, "LeaseAlreadyPresent"));
  await blob.upload("new", 3, { conditions: { leaseId: lease.leaseId } });
  assert.equal((await blob.getProperties()).leaseState, "leased");
  await lease.renewLease();
  await lease.releaseLease();
  await blob.upload("newer", 5);
});

test("the lease of a container is broken", async () => {
  const container = await createContainer();
  const lease = container.getBlobLeaseClient();
  await lease.acquireLease(-1);
  await assert.rejects(container.delete(), failsWith(412, "LeaseIdMissing"));
  assert.equal((await lease.breakLease(0)).leaseTime, 0);
  await container.delete();
});

test("a page blob is refused by name", async () => {
  const blob = (await createContainer()).getPageBlobClient("disk");
  await assert.rejects(blob.create(512), (error) => {
    assert.match(error.response.bodyAsText, /<Feature>PageBlob<\/Feature>/);
    return failsWith(501, "NotImplemented")(error);
  });
});
