// Use the emulator with the unmodified @azure/service-bus for JavaScript.
//
// `conformance.py` starts the emulator and sets CONNECTION_STRING and ADMIN_URL.
// The package is licensed under the MIT licence; none of its code is copied here.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import { ServiceBusClient } from "@azure/service-bus";

const { CONNECTION_STRING, ADMIN_URL } = process.env;
const WAIT = { maxWaitTimeInMs: 20_000 };
const client = new ServiceBusClient(CONNECTION_STRING);
const impatient = new ServiceBusClient(CONNECTION_STRING, { retryOptions: { maxRetries: 0 } });

after(async () => {
  await client.close();
  await impatient.close();
});

async function createQueue(properties = {}) {
  const name = `queue-${randomUUID().slice(0, 12)}`;
  const elements = Object.entries(properties).map(([key, value]) => `<${key}>${value}</${key}>`);
  const body =
    '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">' +
    '<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">' +
    `${elements.join("")}</QueueDescription></content></entry>`;
  const answer = await fetch(`${ADMIN_URL}/${name}?api-version=2021-05`, { method: "PUT", body });
  assert.equal(answer.status, 201);
  return name;
}

async function open({ properties, receiver = {}, using = client } = {}) {
  const queue = await createQueue(properties);
  return {
    queue,
    sender: using.createSender(queue),
    receiver: using.createReceiver(queue, receiver),
    deadLetters: using.createReceiver(queue, { subQueueType: "deadLetter" }),
  };
}

async function put(path, kind) {
  const body =
    '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">' +
    `<${kind} xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"/>` +
    "</content></entry>";
  const answer = await fetch(`${ADMIN_URL}/${path}?api-version=2021-05`, { method: "PUT", body });
  assert.equal(answer.status, 201);
}

// Create a topic with subscriptions that get all messages.
async function openTopic(...subscriptions) {
  const topic = `topic-${randomUUID().slice(0, 12)}`;
  await put(topic, "TopicDescription");
  const receivers = {};
  for (const name of subscriptions) {
    await put(`${topic}/subscriptions/${name}`, "SubscriptionDescription");
    receivers[name] = client.createReceiver(topic, name);
  }
  return { topic, sender: client.createSender(topic), receivers };
}

// Create a queue with sessions, and send messages, each with the session's id and the body.
async function createSessionQueue(properties = {}, ...messages) {
  const queue = await createQueue({ ...properties, RequiresSession: "true" });
  const sender = client.createSender(queue);
  for (const [sessionId, body] of messages) await sender.sendMessages({ sessionId, body });
  return queue;
}

async function receive(receiver, count = 1) {
  const messages = [];
  while (messages.length < count) {
    const more = await receiver.receiveMessages(count - messages.length, WAIT);
    assert.notEqual(more.length, 0, "no message was received");
    messages.push(...more);
  }
  return messages;
}

async function receiveOne(receiver) {
  return (await receive(receiver))[0];
}

async function counts(queue) {
  const text = await (await fetch(`${ADMIN_URL}/${queue}?api-version=2021-05`)).text();
  return Number(/<(?:sb:)?MessageCount>(\d+)</.exec(text)[1]);
}

function failsWith(code) {
  return (error) => {
    assert.equal(error.code, code, `${error.name}: ${error.message}`);
    return true;
  };
}

// Create a policy of the namespace, and return its connection string.
async function createPolicy(rights) {
  const name = `policy-${randomUUID().slice(0, 12)}`;
  const answer = await fetch(`${ADMIN_URL}/$emulator/authorizationRules/${name}`, {
    method: "PUT",
    body: JSON.stringify({ rights }),
  });
  const { primaryKey } = await answer.json();
  return CONNECTION_STRING.replace(
    /SharedAccessKeyName=.*?;SharedAccessKey=.*?;/,
    `SharedAccessKeyName=${name};SharedAccessKey=${primaryKey};`,
  );
}

function connectWith(connectionString) {
  return new ServiceBusClient(connectionString, { retryOptions: { maxRetries: 0 } });
}

async function setFaults(faults) {
  const body = JSON.stringify(faults);
  await fetch(`${ADMIN_URL}/$emulator/faults`, { method: "PUT", body });
}

function lacks(claim, queue) {
  return (error) => {
    assert.ok(error.message.includes(`'${claim}' claim(s) are required`), error.message);
    assert.ok(error.message.includes(`Resource: 'sb://localhost/${queue}`), error.message);
    return failsWith("UnauthorizedAccess")(error);
  };
}

for (const [kind, body] of [
  ["a text", "text"],
  ["an object", { a: [1, "b", null] }],
  ["a number", 5],
  ["bytes", Buffer.from([0, 255])],
]) {
  test(`a message with ${kind} is received as sent`, async () => {
    const { sender, receiver, queue } = await open();
    await sender.sendMessages({ body });
    const message = await receiveOne(receiver);
    assert.deepEqual(message.body, body);
    await receiver.completeMessage(message);
    assert.equal(await counts(queue), 0);
  });
}

test("a message without an id gets an id from the service", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages([{ body: 1 }, { body: 2 }]);
  const [first, second] = await receive(receiver, 2);
  assert.match(first.messageId, /^[0-9a-f]{32}$/);
  assert.notEqual(first.messageId, second.messageId);
});

test("application properties keep their types", async () => {
  const { sender, receiver } = await open();
  const applicationProperties = { text: "é", whole: 3, half: 1.5, yes: true, none: null };
  await sender.sendMessages({ body: "", applicationProperties });
  assert.deepEqual((await receiveOne(receiver)).applicationProperties, applicationProperties);
});

test("system properties are received as sent", async () => {
  const { sender, receiver } = await open();
  const sent = {
    messageId: "id",
    correlationId: "correlation",
    subject: "subject",
    contentType: "text/plain",
    to: "to",
    replyTo: "reply",
    timeToLive: 60_000,
  };
  await sender.sendMessages({ body: "", ...sent });
  const message = await receiveOne(receiver);
  for (const [name, value] of Object.entries(sent)) {
    assert.equal(message[name], value);
  }
  assert.equal(message.deliveryCount, 0);
  assert.equal(message.sequenceNumber.toNumber(), 1);
  assert.ok(message.enqueuedTimeUtc instanceof Date);
  assert.ok(message.lockedUntilUtc > message.enqueuedTimeUtc);
});

test("a batch is received as single messages", async () => {
  const { sender, receiver } = await open();
  const batch = await sender.createMessageBatch();
  for (const body of ["a", "b", "c"]) {
    assert.ok(batch.tryAddMessage({ body }));
  }
  await sender.sendMessages(batch);
  assert.deepEqual((await receive(receiver, 3)).map((each) => each.body), ["a", "b", "c"]);
});

test("a batch refuses a message that does not fit", async () => {
  const { sender } = await open();
  const batch = await sender.createMessageBatch();
  assert.equal(batch.maxSizeInBytes, 262_144);
  assert.ok(batch.tryAddMessage({ body: "x".repeat(200_000) }));
  assert.ok(!batch.tryAddMessage({ body: "x".repeat(100_000) }));
});

test("a message of several frames is received as sent", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages({ body: "x".repeat(200_000) });
  const message = await receiveOne(receiver);
  assert.equal(message.body.length, 200_000);
  await receiver.completeMessage(message);
});

test("a message that is too large is refused", async () => {
  const { sender } = await open({ using: impatient });
  const sending = sender.sendMessages({ body: "x".repeat(300_000) });
  await assert.rejects(sending, failsWith("MessageSizeExceeded"));
});

test("500 messages are received in their order", async () => {
  const { sender, receiver } = await open();
  const bodies = Array.from({ length: 500 }, (_, number) => number);
  await sender.sendMessages(bodies.map((body) => ({ body })));
  const messages = await receive(receiver, 500);
  assert.deepEqual(messages.map((each) => each.body), bodies);
});

test("an abandoned message is redelivered with modified properties", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages({ body: "", applicationProperties: { kept: 1 } });
  await receiver.abandonMessage(await receiveOne(receiver), { why: "x" });
  const message = await receiveOne(receiver);
  assert.equal(message.deliveryCount, 1);
  assert.deepEqual(message.applicationProperties, { kept: 1, why: "x" });
});

test("a message that is abandoned too often is dead-lettered", async () => {
  const { sender, receiver, deadLetters } = await open({ properties: { MaxDeliveryCount: 2 } });
  await sender.sendMessages({ body: "poison" });
  for (let count = 0; count < 2; count++) {
    await receiver.abandonMessage(await receiveOne(receiver));
  }
  const message = await receiveOne(deadLetters);
  assert.equal(message.deadLetterReason, "MaxDeliveryCountExceeded");
  await deadLetters.completeMessage(message);
});

test("a deferred message is received by its sequence number with modified properties", async () => {
  const { sender, receiver, queue } = await open();
  await sender.sendMessages({ body: "later" });
  const message = await receiveOne(receiver);
  await receiver.deferMessage(message, { why: "x" });
  const [deferred] = await receiver.receiveDeferredMessages(message.sequenceNumber);
  assert.equal(deferred.body, "later");
  assert.deepEqual(deferred.applicationProperties, { why: "x" });
  await receiver.completeMessage(deferred);
  assert.equal(await counts(queue), 0);
});

test("a deferred message can be abandoned and dead-lettered with properties", async () => {
  const { sender, receiver, deadLetters } = await open();
  await sender.sendMessages({ body: "later" });
  const message = await receiveOne(receiver);
  await receiver.deferMessage(message);
  const [first] = await receiver.receiveDeferredMessages(message.sequenceNumber);
  await receiver.abandonMessage(first, { one: 1 });
  const [second] = await receiver.receiveDeferredMessages(message.sequenceNumber);
  assert.deepEqual(second.applicationProperties, { one: 1 });
  await receiver.deadLetterMessage(second, { deadLetterReason: "why", two: 2 });
  const dead = await receiveOne(deadLetters);
  assert.equal(dead.deadLetterReason, "why");
  assert.equal(dead.applicationProperties.two, 2);
});

test("a dead letter has its reason, its description and further properties", async () => {
  const { sender, receiver, deadLetters } = await open();
  await sender.sendMessages({ body: "bad" });
  await receiver.deadLetterMessage(await receiveOne(receiver), {
    deadLetterReason: "why",
    deadLetterErrorDescription: "because",
    extra: "x",
  });
  const message = await receiveOne(deadLetters);
  assert.equal(message.deadLetterReason, "why");
  assert.equal(message.deadLetterErrorDescription, "because");
  assert.equal(message.applicationProperties.extra, "x");
});

test("a message is peeked without a lock", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages([{ body: "a" }, { body: "b" }, { body: "c" }]);
  assert.deepEqual((await receiver.peekMessages(2)).map((each) => each.body), ["a", "b"]);
  assert.deepEqual((await receiver.peekMessages(2)).map((each) => each.body), ["c"]);
  assert.deepEqual(await receiver.peekMessages(2), []);
  const [first] = await receive(receiver);
  const since = { fromSequenceNumber: first.sequenceNumber.add(1) };
  assert.deepEqual((await receiver.peekMessages(9, since)).map((each) => each.body), ["b", "c"]);
});

test("a scheduled message is received when it is due", async () => {
  const { sender, receiver } = await open();
  const due = new Date(Date.now() + 1000);
  await sender.scheduleMessages({ body: "later" }, due);
  const message = await receiveOne(receiver);
  assert.equal(message.body, "later");
  assert.ok(Date.now() >= due.getTime() - 50);
});

test("a scheduled message is cancelled by its sequence number", async () => {
  const { sender, receiver } = await open();
  const due = new Date(Date.now() + 3_600_000);
  const numbers = await sender.scheduleMessages([{ body: "a" }, { body: "b" }], due);
  assert.equal(numbers.length, 2);
  await sender.cancelScheduledMessages(numbers[0]);
  const peeked = await receiver.peekMessages(5);
  assert.deepEqual(peeked.map((each) => [each.body, each.state]), [["b", "scheduled"]]);
});

test("cancelling an unknown scheduled message fails", async () => {
  const { sender } = await open({ using: impatient });
  const [number] = await sender.scheduleMessages({ body: "" }, new Date(Date.now() + 3_600_000));
  await sender.cancelScheduledMessages(number);
  await assert.rejects(sender.cancelScheduledMessages(number), failsWith("MessageNotFound"));
});

test("receiving an unknown deferred message fails", async () => {
  const { sender, receiver } = await open({ using: impatient });
  await sender.sendMessages({ body: "" });
  const message = await receiveOne(receiver);
  const receiving = receiver.receiveDeferredMessages(message.sequenceNumber);
  await assert.rejects(receiving, failsWith("MessageNotFound"));
});

test("a message lock is renewed", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages({ body: "" });
  const message = await receiveOne(receiver);
  const before = message.lockedUntilUtc;
  assert.ok((await receiver.renewMessageLock(message)) >= before);
  await receiver.completeMessage(message);
});

test("settling a message with a lost lock fails", async () => {
  const { sender, receiver, queue } = await open({
    properties: { LockDuration: "PT1S" },
    receiver: { maxAutoLockRenewalDurationInMs: 0 },
    using: impatient,
  });
  await sender.sendMessages({ body: "" });
  const message = await receiveOne(receiver);
  const again = await receiveOne(client.createReceiver(queue));
  assert.equal(again.deliveryCount, 1);
  await assert.rejects(receiver.completeMessage(message), failsWith("MessageLockLost"));
});

test("a lock is renewed while a message is processed", async () => {
  const { sender, receiver, queue } = await open({ properties: { LockDuration: "PT2S" } });
  await sender.sendMessages({ body: "" });
  const message = await receiveOne(receiver);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  await receiver.completeMessage(message);
  assert.equal(await counts(queue), 0);
});

test("a message that is received and deleted is gone", async () => {
  const { sender, receiver, queue } = await open({ receiver: { receiveMode: "receiveAndDelete" } });
  await sender.sendMessages({ body: "once" });
  assert.equal((await receiveOne(receiver)).body, "once");
  assert.equal(await counts(queue), 0);
});

test("a subscription completes each message", async () => {
  const { sender, receiver, queue } = await open();
  await sender.sendMessages(Array.from({ length: 20 }, (_, body) => ({ body })));
  const seen = [];
  const { promise, resolve } = withResolvers();
  const subscription = receiver.subscribe(
    {
      processMessage: async (message) => {
        seen.push(message.body);
        if (seen.length === 20) resolve();
      },
      processError: async ({ error }) => assert.fail(error),
    },
    { maxConcurrentCalls: 4 },
  );
  await promise;
  await until(async () => (await counts(queue)) === 0);
  await subscription.close();
  assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: 20 }, (_, body) => body));
});

test("a message whose handler throws is redelivered and then dead-lettered", async () => {
  const { sender, receiver, deadLetters } = await open({ properties: { MaxDeliveryCount: 3 } });
  await sender.sendMessages({ body: "poison" });
  const deliveryCounts = [];
  const subscription = receiver.subscribe({
    processMessage: async (message) => {
      deliveryCounts.push(message.deliveryCount);
      throw new Error("the handler failed");
    },
    processError: async () => {},
  });
  const dead = await receiveOne(deadLetters);
  await subscription.close();
  assert.deepEqual(deliveryCounts, [0, 1, 2]);
  assert.equal(dead.deadLetterReason, "MaxDeliveryCountExceeded");
});

test("an iterator yields messages", async () => {
  const { sender, receiver } = await open();
  await sender.sendMessages([{ body: 0 }, { body: 1 }]);
  const seen = [];
  for await (const message of receiver.getMessageIterator()) {
    seen.push(message.body);
    await receiver.completeMessage(message);
    if (seen.length === 2) break;
  }
  assert.deepEqual(seen, [0, 1]);
});

test("a duplicate is not received", async () => {
  const { sender, receiver } = await open({ properties: { RequiresDuplicateDetection: true } });
  await sender.sendMessages([
    { body: "a", messageId: "1" },
    { body: "b", messageId: "1" },
    { body: "c", messageId: "2" },
  ]);
  assert.deepEqual((await receive(receiver, 2)).map((each) => each.body), ["a", "c"]);
});

test("an expired message is dead-lettered", async () => {
  const { sender, deadLetters } = await open({
    properties: { DeadLetteringOnMessageExpiration: true },
  });
  await sender.sendMessages({ body: "old", timeToLive: 100 });
  assert.equal((await receiveOne(deadLetters)).deadLetterReason, "TTLExpiredException");
});

test("a receiver of an unknown queue fails", async () => {
  const receiving = impatient.createReceiver("nowhere").receiveMessages(1, WAIT);
  await assert.rejects(receiving, failsWith("MessagingEntityNotFound"));
});

test("a sender to an unknown queue fails", async () => {
  const sending = impatient.createSender("nowhere").sendMessages({ body: "" });
  await assert.rejects(sending, failsWith("MessagingEntityNotFound"));
});

test("a wrong key is refused", async () => {
  const wrong = CONNECTION_STRING.replace(/SharedAccessKey=[^;]*/, "SharedAccessKey=d3Jvbmc=");
  const stranger = new ServiceBusClient(wrong, { retryOptions: { maxRetries: 0 } });
  const sending = stranger.createSender(await createQueue()).sendMessages({ body: "" });
  await assert.rejects(sending, failsWith("UnauthorizedAccess"));
  await stranger.close();
});

test("a policy with Listen can receive and cannot send", async () => {
  const { sender, queue } = await open();
  await sender.sendMessages({ body: "one" });
  const reader = connectWith(await createPolicy(["Listen"]));
  const receiver = reader.createReceiver(queue);
  const message = await receiveOne(receiver);
  await receiver.renewMessageLock(message);
  await receiver.completeMessage(message);
  assert.deepEqual(await receiver.peekMessages(1), []);
  const sending = reader.createSender(queue).sendMessages({ body: "" });
  await assert.rejects(sending, lacks("Send", queue));
  await reader.close();
});

test("a policy with Send can send and cannot receive", async () => {
  const { receiver, queue } = await open();
  const writer = connectWith(await createPolicy(["Send"]));
  await writer.createSender(queue).sendMessages({ body: "one" });
  assert.equal((await receiveOne(receiver)).body, "one");
  const receiving = writer.createReceiver(queue).receiveMessages(1, WAIT);
  await assert.rejects(receiving, lacks("Listen", queue));
  await writer.close();
});

test("a policy of a queue gives access to this queue only", async () => {
  const queue = await createQueue({
    AuthorizationRules:
      "<AuthorizationRule><Rights><AccessRights>Send</AccessRights></Rights>" +
      "<KeyName>own</KeyName><PrimaryKey>secret</PrimaryKey></AuthorizationRule>",
  });
  const own = CONNECTION_STRING.replace(
    /SharedAccessKeyName=.*?;SharedAccessKey=.*?;/,
    "SharedAccessKeyName=own;SharedAccessKey=secret;",
  );
  const writer = connectWith(`${own}EntityPath=${queue}`);
  await writer.createSender(queue).sendMessages({ body: "one" });
  await writer.close();
  assert.equal(await counts(queue), 1);
  const stranger = connectWith(own);
  const sending = stranger.createSender(await createQueue()).sendMessages({ body: "" });
  await assert.rejects(sending, failsWith("UnauthorizedAccess"));
  await stranger.close();
});

for (const [status, canSend, canReceive] of [
  ["Disabled", false, false],
  ["SendDisabled", false, true],
  ["ReceiveDisabled", true, false],
]) {
  test(`a queue with the status ${status} refuses links`, async () => {
    const { sender, receiver } = await open({ properties: { Status: status }, using: impatient });
    const sending = sender.sendMessages({ body: "" });
    await (canSend ? sending : assert.rejects(sending, failsWith("MessagingEntityDisabled")));
    const receiving = receiver.receiveMessages(1, { maxWaitTimeInMs: 500 });
    await (canReceive ? receiving : assert.rejects(receiving, failsWith("MessagingEntityDisabled")));
  });
}

test("a send to a throttled queue fails", async () => {
  const { sender, queue } = await open({ using: impatient });
  await sender.sendMessages({ body: "before" });
  await setFaults({ throttled_share: 1, throttled_queue: queue });
  await assert.rejects(sender.sendMessages({ body: "meanwhile" }), (error) => {
    assert.match(error.message, /Error code: 50002/);
    return failsWith("ServiceBusy")(error);
  });
  await setFaults({});
});

test("a session receiver of a queue without sessions is refused", async () => {
  const accepting = impatient.acceptSession(await createQueue(), "session");
  await assert.rejects(accepting, failsWith("SessionCannotBeLocked"));
});

test("a session receiver gets the messages of its session in order", async () => {
  const queue = await createSessionQueue({}, ["one", "a"], ["two", "b"], ["one", "c"]);
  const receiver = await client.acceptSession(queue, "one");
  assert.equal(receiver.sessionId, "one");
  assert.ok(receiver.sessionLockedUntilUtc > new Date());
  const messages = await receive(receiver, 2);
  assert.deepEqual(messages.map((each) => each.body), ["a", "c"]);
  assert.equal((await receiver.peekMessages(9, { fromSequenceNumber: messages[0].sequenceNumber })).length, 2);
  for (const message of messages) await receiver.completeMessage(message);
  await receiver.close();
  assert.equal(await counts(queue), 1);
});

test("the next session is accepted, and the wait for it ends with a timeout", async () => {
  const queue = await createSessionQueue({}, ["only", "a"]);
  const receiver = await impatient.acceptNextSession(queue);
  assert.equal(receiver.sessionId, "only");
  const retryOptions = { maxRetries: 0, timeoutInMs: 1_000 };
  const waiting = new ServiceBusClient(CONNECTION_STRING, { retryOptions });
  await assert.rejects(waiting.acceptNextSession(queue), failsWith("ServiceTimeout"));
  await waiting.close();
  await receiver.close();
});

test("a locked session is refused until it is released", async () => {
  const queue = await createSessionQueue({}, ["s", "a"], ["s", "b"]);
  const receiver = await client.acceptSession(queue, "s");
  assert.equal((await receiveOne(receiver)).deliveryCount, 0);
  await assert.rejects(impatient.acceptSession(queue, "s"), failsWith("SessionCannotBeLocked"));
  await receiver.close();
  const other = await impatient.acceptSession(queue, "s");
  assert.deepEqual((await receive(other, 2)).map((each) => each.body), ["a", "b"]);
  await other.close();
});

test("a session has a lock to renew and a state", async () => {
  const queue = await createSessionQueue();
  const receiver = await client.acceptSession(queue, "s");
  const before = receiver.sessionLockedUntilUtc;
  assert.ok((await receiver.renewSessionLock()) > before);
  assert.equal(await receiver.getSessionState(), null);
  await receiver.setSessionState({ step: 2 });
  await receiver.close();
  const other = await client.acceptSession(queue, "s");
  assert.deepEqual(await other.getSessionState(), { step: 2 });
  await other.close();
});

test("messages of a session are abandoned, deferred and dead-lettered", async () => {
  const queue = await createSessionQueue({}, ["s", "a"], ["s", "b"], ["s", "c"]);
  const receiver = await client.acceptSession(queue, "s");
  const [abandoned, deferred, dead] = await receive(receiver, 3);
  await receiver.deferMessage(deferred);
  await receiver.deadLetterMessage(dead, { deadLetterReason: "why" });
  await receiver.abandonMessage(abandoned);
  const again = await receiveOne(receiver);
  assert.deepEqual([again.body, again.deliveryCount], ["a", 1]);
  await receiver.completeMessage(again);
  const [found] = await receiver.receiveDeferredMessages(deferred.sequenceNumber);
  await receiver.completeMessage(found);
  await receiver.close();
  const deadLetters = client.createReceiver(queue, { subQueueType: "deadLetter" });
  assert.equal((await receiveOne(deadLetters)).sessionId, "s");
});

test("a session whose lock expires is lost", async () => {
  const queue = await createSessionQueue({ LockDuration: "PT1S" }, ["s", "a"]);
  const isNotRenewed = { maxAutoLockRenewalDurationInMs: 0 };
  const receiver = await impatient.acceptSession(queue, "s", isNotRenewed);
  const message = await receiveOne(receiver);
  const other = await client.acceptNextSession(queue);
  assert.equal((await receiveOne(other)).deliveryCount, 1);
  await assert.rejects(receiver.completeMessage(message), failsWith("SessionLockLost"));
  await assert.rejects(receiver.renewSessionLock(), failsWith("SessionLockLost"));
  await other.close();
});

test("a message without a session is refused by a queue with sessions", async () => {
  const queue = await createSessionQueue();
  const sending = impatient.createSender(queue).sendMessages({ body: "no session" });
  await assert.rejects(sending, /The SessionId was not set on a message/);
  const receiver = impatient.createReceiver(queue);
  await assert.rejects(receiver.receiveMessages(1), /create a non-sessionful message receiver/);
});

test("a client goes on after its links were detached", async () => {
  const { sender, receiver, queue } = await open();
  await sender.sendMessages({ body: "before" });
  const body = JSON.stringify({ queue });
  await fetch(`${ADMIN_URL}/$emulator/detach`, { method: "POST", body });
  await sender.sendMessages({ body: "after" });
  assert.deepEqual((await receive(receiver, 2)).map((each) => each.body), ["before", "after"]);
});

test("a topic sends each message to the subscriptions whose rules select it", async () => {
  const { topic, sender, receivers } = await openTopic("all", "red", "changed");
  const rules = client.createRuleManager(topic, "red");
  await rules.createRule("sql", { sqlExpression: "color = 'red'" });
  await rules.createRule("label", { subject: "a", applicationProperties: { size: 5 } });
  await rules.deleteRule("$Default");
  const changing = client.createRuleManager(topic, "changed");
  await changing.createRule("act", { sqlExpression: "1=1" }, { sqlExpression: "SET n = size + 1" });
  await changing.deleteRule("$Default");
  await sender.sendMessages([
    { body: "1", applicationProperties: { color: "red", size: 5 } },
    { body: "2", applicationProperties: { color: "blue", size: 5 }, subject: "a" },
    { body: "3", applicationProperties: { color: "blue", size: 6 }, subject: "a" },
  ]);
  const texts = (messages) => messages.map((each) => each.body);
  assert.deepEqual(texts(await receive(receivers.all, 3)), ["1", "2", "3"]);
  assert.deepEqual(texts(await receive(receivers.red, 2)), ["1", "2"]);
  const changed = await receive(receivers.changed, 3);
  assert.deepEqual(changed.map((each) => each.applicationProperties.n), [6, 6, 7]);
  assert.equal(changed[0].applicationProperties.RuleName, "act");
});

test("the rules of a subscription are listed, and unknown rules are not found", async () => {
  const { topic } = await openTopic("one");
  const rules = client.createRuleManager(topic, "one");
  await rules.createRule("correlation", { correlationId: "c", applicationProperties: { n: 5 } });
  await rules.createRule("sql", { sqlExpression: "a = 1" }, { sqlExpression: "REMOVE a" });
  const found = await collect(rules.listRules());
  assert.deepEqual(found.map((rule) => rule.name), ["$Default", "correlation", "sql"]);
  assert.equal(found[0].filter.sqlExpression, "1=1");
  assert.equal(found[1].filter.correlationId, "c");
  assert.deepEqual(found[1].filter.applicationProperties, { n: 5 });
  assert.equal(found[2].filter.sqlExpression, "a = 1");
  assert.equal(found[2].action.sqlExpression, "REMOVE a");
  await assert.rejects(rules.deleteRule("absent"), failsWith("MessagingEntityNotFound"));
  const again = rules.createRule("sql", { sqlExpression: "1=1" });
  await assert.rejects(again, failsWith("MessagingEntityAlreadyExists"));
});

test("messages of a subscription are dead-lettered, deferred and scheduled", async () => {
  const { topic, sender, receivers } = await openTopic("one");
  const [cancelled] = await sender.scheduleMessages({ body: "never" }, new Date(Date.now() + 9e6));
  await sender.cancelScheduledMessages(cancelled);
  await sender.scheduleMessages({ body: "first" }, new Date(Date.now() + 500));
  const first = await receiveOne(receivers.one);
  await receivers.one.deadLetterMessage(first, { deadLetterReason: "why" });
  await sender.sendMessages({ body: "second" });
  const second = await receiveOne(receivers.one);
  await receivers.one.deferMessage(second);
  const [deferred] = await receivers.one.receiveDeferredMessages(second.sequenceNumber);
  await receivers.one.completeMessage(deferred);
  const letters = client.createReceiver(topic, "one", { subQueueType: "deadLetter" });
  const letter = await receiveOne(letters);
  assert.deepEqual([letter.body, letter.deadLetterReason], ["first", "why"]);
});

async function collect(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

function withResolvers() {
  let resolve;
  const promise = new Promise((settle) => (resolve = settle));
  return { promise, resolve };
}

async function until(isDone) {
  const endsAt = Date.now() + 30_000;
  while (!(await isDone())) {
    assert.ok(Date.now() < endsAt, "the state was not reached within 30 s");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
