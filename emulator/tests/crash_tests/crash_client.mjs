// Use the emulator with Microsoft's SDKs for JavaScript while it is killed and started again.
//
// `javascript_crash.py` starts this program with `servicebus SEED` or `blobs SEED`, and sets
// CONNECTION_STRING. Each operation is reported as a line of JSON before it begins and after the
// service has acknowledged it. The line `stop` on standard input ends the writes, and the end of
// the input ends the program. One client is used all the time: it must recover by itself.

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { createInterface } from "node:readline";

const [kind, seed] = process.argv.slice(2);
const { CONNECTION_STRING } = process.env;
let isWriting = true;

function report(operation, fields = {}) {
  process.stdout.write(`${JSON.stringify({ operation, ...fields })}\n`);
}

// A generator of numbers from 0 to 1 which has a seed, unlike Math.random.
function randomNumbers(name) {
  let count = 0;
  return () => {
    const digest = createHash("sha256").update(`${name} ${seed} ${count++}`).digest();
    return digest.readUInt32BE(0) / 2 ** 32;
  };
}

async function useServiceBus() {
  const { ServiceBusClient } = await import("@azure/service-bus");
  // By default the client waits 30 s before each retry.
  const client = new ServiceBusClient(CONNECTION_STRING, {
    retryOptions: { maxRetries: 10, retryDelayInMs: 300 },
  });
  let open = 0;

  async function send(number) {
    const random = randomNumbers(`sender ${number}`);
    const sender = client.createSender("crash");
    for (let count = 0; isWriting; ) {
      if (open > 100) {
        await sleep(20);
        continue;
      }
      const size = 1 + Math.floor(random() * 4);
      const keys = Array.from({ length: size }, () => `${number}-${count++}`);
      const messages = keys.map((key) => ({ body: key, messageId: key }));
      keys.forEach((key) => report("begin_send", { key }));
      try {
        if (size === 1) {
          const due = new Date(Date.now() + random() * 2000);
          const [sequenceNumber] = await sender.scheduleMessages(messages[0], due);
          report("confirm_schedule", {
            key: keys[0],
            sequence_number: sequenceNumber.toNumber(),
          });
        } else {
          await sender.sendMessages(messages);
          keys.forEach((key) => report("confirm_send", { key }));
          open += size;
        }
      } catch (error) {
        report("outage", { code: error.code ?? error.name });
        await sleep(100);
      }
    }
    await sender.close();
  }

  function choose(random) {
    const drawn = isWriting ? random() : 0;
    return drawn < 0.7 ? "complete" : drawn < 0.9 ? "abandon" : drawn < 0.95 ? "dead-letter" : "defer";
  }

  async function settle(receiver, random, message) {
    const key = message.messageId;
    report("deliver", {
      key,
      sequence_number: message.sequenceNumber.toNumber(),
      delivery_count: message.deliveryCount ?? 0,
      received_at: Date.now() / 1000,
      locked_until: message.lockedUntilUtc.getTime() / 1000,
    });
    if (random() < 0.1) {
      const until = await receiver.renewMessageLock(message);
      report("confirm_renewal", { key, locked_until: until.getTime() / 1000 });
    }
    const settlement = choose(random);
    report("begin_settlement", { key, settlement });
    if (settlement === "complete") await receiver.completeMessage(message);
    else if (settlement === "abandon") await receiver.abandonMessage(message);
    else if (settlement === "defer") await receiver.deferMessage(message);
    else await receiver.deadLetterMessage(message, { deadLetterReason: "crash" });
    report("confirm_settlement", { key, settlement });
    if (settlement !== "abandon") open -= 1;
  }

  // Each receiver settles one message at a time. If a receiver settles two messages at once, rhea,
  // the AMQP library of the SDK, sends the outcome of the first for both.
  const subscriptions = [0, 1, 2].map((number) => {
    const random = randomNumbers(`receiver ${number}`);
    const receiver = client.createReceiver("crash");
    return receiver.subscribe(
      {
        processMessage: (message) => settle(receiver, random, message),
        processError: async ({ error }) => report("outage", { code: error.code ?? error.name }),
      },
      { autoCompleteMessages: false, maxConcurrentCalls: 1 },
    );
  });
  await Promise.all([send(0), send(1)]);
  report("stopped");
  await ended;
  await Promise.all(subscriptions.map((each) => each.close()));
  await client.close();
}

async function useBlobs() {
  const { BlobServiceClient } = await import("@azure/storage-blob");
  const service = BlobServiceClient.fromConnectionString(CONNECTION_STRING, {
    retryOptions: { retryDelayInMs: 200, maxRetryDelayInMs: 1000 },
  });
  const container = service.getContainerClient("crash");

  function makeContent(name, version, size) {
    const head = `${name} ${version} ${size}\n`;
    const digest = createHash("sha256").update(head).digest("hex");
    return (head + digest.repeat(Math.ceil(size / digest.length))).slice(0, size);
  }

  async function read(name) {
    const blob = container.getBlockBlobClient(name);
    try {
      const content = await blob.downloadToBuffer();
      const { etag } = await blob.getProperties();
      report("read", { name, content: content.toString("latin1"), etag });
      return etag;
    } catch (error) {
      if (error.statusCode !== 404) throw error;
      report("read", { name, content: null, etag: null });
      return null;
    }
  }

  async function write(number) {
    const random = randomNumbers(`writer ${number}`);
    for (let version = 1; isWriting; version++) {
      const name = `writer-${number}-${Math.floor(random() * 6)}`;
      const blob = container.getBlockBlobClient(name);
      const size = [100, 3000, 60000][Math.floor(random() * 3)];
      let isRefused = false;
      try {
        const etag = await read(name);
        if (etag !== null && random() < 0.15) {
          report("begin_write", { name, version: 0 });
          const answer = await blob.deleteIfExists({ conditions: { ifMatch: etag } });
          // If an attempt without an answer has deleted the blob, a later one does not find it.
          report("confirm_write", { name, version: 0, etag: null });
          if (!answer.succeeded) report("repeated");
        } else {
          const conditions = etag === null ? { ifNoneMatch: "*" } : { ifMatch: etag };
          const content = makeContent(name, version, size);
          report("begin_write", { name, version });
          const answer = await blob.upload(content, content.length, { conditions });
          report("confirm_write", { name, version, etag: answer.etag });
        }
      } catch (error) {
        isRefused = error.statusCode === 412 || error.statusCode === 409;
        report(isRefused ? "refuse_write" : "outage", isRefused ? { name } : { code: error.code });
        await sleep(100);
      }
    }
  }

  await Promise.all([write(0), write(1), write(2)]);
  report("stopped");
  await ended;
}

const input = createInterface({ input: process.stdin });
input.on("line", () => (isWriting = false));
const ended = new Promise((resolve) => input.on("close", resolve));

await (kind === "servicebus" ? useServiceBus() : useBlobs());
