"""Run batches with the package `openai`, whose types check each answer at run time.

Arguments: the URL of the OpenAI API, how many lines a batch has, and the models for chats and for
embeddings. The first one is the deterministic engine of the tests.
"""

import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

CHAT: Any = "/v1/chat/completions"
EMBEDDINGS: Any = "/v1/embeddings"
ENDED = ("cancelled", "completed", "expired", "failed")
PART_BYTES = 64 * 1024
BATCH_SECONDS = 600


def chats(model: str, count: int, options: str = "tokens=3 rate=1000") -> list[Any]:
    """Return the bodies of chats, of which the engine refuses each fiftieth."""
    faults = [" fault=refuses" if number % 50 == 49 else "" for number in range(count)]
    prompts = [f"{options}{fault} {number}" for number, fault in enumerate(faults)]
    ask = [[{"role": "user", "content": each}] for each in prompts]
    return [{"model": model, "messages": messages} for messages in ask]


def create(client: OpenAI, endpoint: Any, bodies: list[Any], **changes: Any) -> Any:
    """Upload a file with these bodies in parts, and create a batch of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number, body in enumerate(bodies):
                line = {"custom_id": f"line {number}", "method": "POST", "url": endpoint}
                file.write(json.dumps({**line, "body": body, **changes}) + "\n")
        done = client.uploads.upload_file_chunked(
            file=path, mime_type="application/jsonl", purpose="batch", part_size=PART_BYTES
        )
        assert done.file is not None
        assert client.files.content(done.file.id).read() == path.read_bytes()
    made = client.batches.create(
        input_file_id=done.file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"suite": "batches"},
    )
    assert (made.status, made.metadata) == ("validating", {"suite": "batches"})
    assert made.id in {each.id for each in client.batches.list(limit=5)}
    return made


def wait(client: OpenAI, batch_id: str) -> Any:
    """Return the batch when it has ended. Its counts must never fall."""
    ends_at, completed = time.monotonic() + BATCH_SECONDS, 0
    while (batch := client.batches.retrieve(batch_id)).status not in ENDED:
        assert time.monotonic() < ends_at, batch
        assert batch.request_counts is not None
        assert batch.request_counts.completed >= completed
        completed = batch.request_counts.completed
        time.sleep(0.25)
    return batch


def read(client: OpenAI, batch: Any) -> tuple[list[Any], list[Any]]:
    """Return the lines of the output and of the errors. Each line of the input must be in one."""
    found: list[list[Any]] = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        data = client.files.content(file_id).read() if file_id else b""
        assert not file_id or client.files.retrieve(file_id).bytes == len(data)
        lines = [json.loads(each) for each in data.splitlines()]
        numbers = [int(each["custom_id"].removeprefix("line ")) for each in lines]
        assert numbers == sorted(set(numbers)), "the order is that of the input"
        found.append(lines)
    output, errors = found
    counts = batch.request_counts
    assert {*_ids(output), *_ids(errors)} == {f"line {number}" for number in range(counts.total)}
    assert (len(output), len(errors)) == (counts.completed, counts.failed)
    return output, errors


def _ids(lines: list[Any]) -> list[str]:
    return [each["custom_id"] for each in lines]


def run_chats(client: OpenAI, model: str, count: int) -> None:
    """Run a batch of chats, and check each answer, and each refusal by the engine."""
    bodies = chats(model, count)
    batch = wait(client, create(client, CHAT, bodies).id)
    assert (batch.status, batch.request_counts.total) == ("completed", count), batch
    output, errors = read(client, batch)
    for line in output:
        prompt = bodies[int(line["custom_id"][5:])]["messages"][0]["content"]
        answer = ChatCompletion.model_validate(line["response"]["body"])
        word = hashlib.sha256(f"{prompt}/0".encode()).hexdigest()[:5]
        assert str(answer.choices[0].message.content).startswith(word)
        assert (line["response"]["status_code"], line["error"]) == (200, None)
    assert len(errors) == count // 50
    for line in errors:
        assert line["response"]["status_code"] == 422, line
        assert "too long" in line["response"]["body"]["error"]["message"]


def run_embeddings(client: OpenAI, model: str, count: int) -> None:
    """Run a batch of embeddings, and check each vector."""
    bodies = [{"model": model, "input": [f"text {number}"]} for number in range(count)]
    batch = wait(client, create(client, EMBEDDINGS, bodies).id)
    output, errors = read(client, batch)
    assert (batch.status, len(output), errors) == ("completed", count, []), batch
    vectors = set()
    for line in output:
        answer = CreateEmbeddingResponse.model_validate(line["response"]["body"])
        vectors.add(tuple(answer.data[0].embedding))
    assert len(vectors) == count


def cancel(client: OpenAI, model: str, count: int) -> None:
    """Cancel a batch that is running, which keeps what has ended."""
    made = create(client, CHAT, chats(model, count, "tokens=10 rate=20"))
    ends_at = time.monotonic() + BATCH_SECONDS
    while not (counts := client.batches.retrieve(made.id).request_counts) or not counts.completed:
        assert time.monotonic() < ends_at
        time.sleep(0.1)
    assert client.batches.cancel(made.id).status in {"cancelling", "cancelled"}
    batch = wait(client, made.id)
    output, errors = read(client, batch)
    assert batch.status == "cancelled", batch
    assert output
    codes = Counter(each["error"]["code"] for each in errors if each["error"])
    assert codes["batch_cancelled"] > count // 4, codes


def refuse(client: OpenAI, model: str) -> None:
    """Create a batch whose lines are wrong, which must be refused by line."""
    bodies = [*chats(model, 2), {"model": model}, {"model": "other", "messages": ["x"]}]
    batch = wait(client, create(client, CHAT, bodies).id)
    assert (batch.status, batch.output_file_id) == ("failed", None), batch
    assert [each.line for each in batch.errors.data] == [3, 4], batch.errors
    other = wait(client, create(client, CHAT, bodies[:2], method="GET").id)
    assert [each.message for each in other.errors.data] == ["method: expected POST"] * 2


def main(url: str, count: str, chat_model: str, embedding_model: str) -> None:
    """Run all checks, and print how long each took."""
    with OpenAI(base_url=url, api_key="unused", _strict_response_validation=True) as client:
        for check, model in (
            (run_chats, chat_model),
            (run_embeddings, embedding_model),
            (cancel, chat_model),
        ):
            begun_at = time.monotonic()
            check(client, model, int(count))
            sys.stdout.write(f"{check.__name__} {time.monotonic() - begun_at:.1f} s\n")
        refuse(client, chat_model)


if __name__ == "__main__":
    main(*sys.argv[1:])
