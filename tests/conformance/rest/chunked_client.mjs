// Post a file with fetch, whose body is a stream, and print the response.
// Arguments: the URL, the media type, and the path of the file.
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";

const [url, mediaType, path] = process.argv.slice(2);
const body = Readable.toWeb(createReadStream(path, { highWaterMark: 60_000 }));
const headers = { "content-type": mediaType };
const response = await fetch(url, { method: "POST", headers, body, duplex: "half" });
console.log(await response.text());
process.exitCode = response.status === 200 ? 0 : 1;
