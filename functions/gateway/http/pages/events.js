// Server-sent events of the gateway, read with `fetch`, which sends the user's key.

/** Yield the events of a response's body: their type, id (null if none) and data, which is JSON. */
export async function* readEvents(body) {
  let text = "";
  for await (const piece of pieces(body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (text + piece).split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) yield event;
    }
  }
}

// Not all browsers can iterate over a stream. The end of the iteration closes the connection.
async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  const fields = {};
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (name) fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${value}` : value;
  }
  if (fields.data === undefined) return null;
  return { type: fields.event, id: fields.id ?? null, data: JSON.parse(fields.data) };
}

/** Return whether the event `id`, such as "1-3", comes after the event `last`, which may be null. */
export function isLater(id, last) {
  const [attempt, number] = id.split("-").map(Number);
  const [lastAttempt, lastNumber] = (last ?? "0-0").split("-").map(Number);
  return attempt > lastAttempt || (attempt === lastAttempt && number > lastNumber);
}
