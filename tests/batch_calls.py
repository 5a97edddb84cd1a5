"""Create batches over HTTP and read their output, for end-to-end tests, benchmarks and storms."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx

POLL_SECONDS = 0.5


def encode_lines(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Return lines as JSONL."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(http: httpx.Client, data: bytes) -> str:
    """Upload a JSONL file, and return the upload's id."""
    slot = _json(http.post("/v1/uploads", json={"purpose": "batch"}), 201)
    httpx.put(slot["url"], content=data, headers=slot["headers"], timeout=120).raise_for_status()
    return str(slot["upload"])


def create_batch(http: httpx.Client, model: str, **members: Any) -> str:
    """Create a batch with the members of the request's JSON body, and return its id."""
    body = {"model": model, **members}
    return str(_json(http.post("/v1/batches", json=body), 202)["id"])


def batch_of(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    """Return the resource of a batch."""
    return _json(http.get(f"/v1/batches/{batch_id}"), 200)


def wait_for_batch(http: httpx.Client, batch_id: str, seconds: float) -> dict[str, Any]:
    """Poll a batch until it has ended, and return it. Raises TimeoutError."""
    ends_at = time.monotonic() + seconds
    while (batch := batch_of(http, batch_id))["finished_at"] is None:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"the batch has not ended within {seconds:.0f} s: {batch}")
        time.sleep(POLL_SECONDS)
    return batch


def read_output(http: httpx.Client, batch_id: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of the output `results` or `errors` as they arrive."""
    path = f"/v1/batches/{batch_id}/{name}"
    with http.stream("GET", path, follow_redirects=True) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            yield json.loads(line)


def _json(response: httpx.Response, status: int) -> dict[str, Any]:
    if response.status_code != status:
        raise RuntimeError(f"{response.url}: {response.status_code} {response.text[:500]}")
    return dict(response.json())
