"""Upload bad files of batches to a whole system, which must refuse them in little memory."""

from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.bad_batch_files import BAD_FILES, GOOD
from tests.batch_calls import create_batch, upload, wait_for_batch
from tests.e2e.system import System, until

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(300)]

MAX_GROWTH_BYTES = 100 * 1024 * 1024
LARGE_FILE_BYTES = 200_000_000


def refusals(system: System, data: bytes) -> list[tuple[int | None, str]]:
    """Return the lines and codes with which a file is refused, at once or by its batch."""
    name = upload(system.http, data)
    sent = {"model": "noop", "file": {"upload": name}}
    answer = system.http.post("/v1/batches", json=sent)
    found = answer.json()
    if answer.status_code == 202:
        found = wait_for_batch(system.http, found["id"], 60)
        assert found["status"] == "failed"
        assert found["counts"]["total"] == 0
    else:
        assert (answer.status_code, found["code"]) == (422, "invalid-batch")
    return [(each["line"], each["code"]) for each in found["errors"]]


def upload_large(system: System, start: bytes, piece: bytes) -> str:
    """Upload a file that begins with `start` and repeats `piece`; return the upload's id."""
    slot = system.http.post("/v1/uploads", json={"purpose": "batch"}).json()
    count = LARGE_FILE_BYTES // len(piece)

    def pieces() -> Iterator[bytes]:
        yield start
        for _ in range(count):
            yield piece

    headers = {**slot["headers"], "content-length": str(len(start) + count * len(piece))}
    answer = httpx.put(slot["url"], content=pieces(), headers=headers, timeout=120)
    assert answer.status_code == 201, answer.text
    return str(slot["upload"])


class TestBadFiles:
    def test_each_kind_is_refused_by_line(self, system: System) -> None:
        found = {kind: refusals(system, data) for kind, (data, _) in BAD_FILES.items()}
        assert found == {
            kind: [(line or None, code) for line, code in expected]
            for kind, (_, expected) in BAD_FILES.items()
        }
        assert system.http.get("/v1/jobs?limit=1&label=batch").json()["jobs"] == []

    @pytest.mark.parametrize(
        ("start", "piece", "code"),
        [
            (b'{"custom_id": "a", "input": {"text": "', b"x" * 1_000_000, "line-too-long"),
            (GOOD, b"\n" * 1_000_000, "too-many-lines"),
            (
                GOOD,
                b'{"custom_id": "c", "input": {"json": [' + b"[1]," * 50_000 + b"1]}}\n",
                "duplicate-custom-id",
            ),
        ],
        ids=["one line", "blank lines", "the same large line"],
    )
    def test_memory_stays_bounded(
        self, system: System, start: bytes, piece: bytes, code: str
    ) -> None:
        name = upload_large(system, start, piece)
        functions = psutil.Process(system.part("functions").pid)
        before, peak = functions.memory_info().rss, 0

        def look() -> bool:
            nonlocal peak
            peak = max(peak, functions.memory_info().rss)
            found = system.http.get(f"/v1/batches/{batch_id}").json()
            return found["finished_at"] is not None

        batch_id = create_batch(system.http, "noop", file={"upload": name})
        until(look, 200, "the file is refused")
        errors = system.http.get(f"/v1/batches/{batch_id}").json()["errors"]
        assert {each["code"] for each in errors} == {code}
        assert peak - before < MAX_GROWTH_BYTES
