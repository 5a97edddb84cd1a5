"""Kill components while batches run, and check each line of their outputs (`--batches N`).

The first half of the batches are uploaded files, the others lists of items. Each batch is created
before another part of the kills. Some lines fail on purpose, and some of a file have a large input.
Meanwhile each batch is read again and again: its counts may only grow, and what was read of its
outputs may only be continued.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.batches.ids import line_id
from lab.storm.callers import StormCallers
from lab.storm.jobs import JobKind, StormJob
from lab.storm.kills import plan_kills
from lab.storm.rig import Rig
from lab.storm.run import Storm, in_background

MODEL = "counting"
OUTPUTS = ("results", "errors")
_SWEEP_PAUSE_SECONDS = 0.5
_MODEL_MS = (20, 50, 80)
_FAILING_SHARE, _LARGE_SHARE = 0.05, 0.04
_LARGE_BYTES = 80_000
_FAILING_INPUT = "an input that the model cannot read"
_MAX_TOLD = 5


@dataclass
class LineJob(StormJob):
    """A line of a batch, whose number counts from 1, and what the outputs say about it."""

    is_failing: bool = False
    is_large: bool = False

    def line(self, ran_path: Path) -> dict[str, Any]:
        """Return the line of the input."""
        text = _FAILING_INPUT
        if not self.is_failing:
            text = f"{ran_path} {self.label} {self.model_ms}"
        return {
            "custom_id": self.label,
            "input": {"text": text.ljust(_LARGE_BYTES if self.is_large else 0)},
        }

    def is_right_end(self, final: Mapping[str, Any]) -> bool:
        """Return whether the line may end so."""
        if self.is_failing:
            return bool(final["status"] == "failed" and final["error"]["code"])
        return bool(final["status"] == "succeeded" and self.is_right_result(final["result"]))


@dataclass
class StormBatch:
    """A batch of a storm, and all that was seen of it."""

    number: int
    lines: list[LineJob]
    is_file: bool
    id: str = ""
    final: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys(OUTPUTS, b""))
    faults: list[str] = field(default_factory=list)

    def accept(self, batch_id: str) -> None:
        """Record that the gateway accepted the batch."""
        if self.id not in {"", batch_id}:
            self.faults.append(f"one key made two batches, {self.id} and {batch_id}")
            return
        self.id = batch_id
        for line in self.lines:
            line.accept(line_id(batch_id, line.number), line.label)

    def see(self, batch: Mapping[str, Any]) -> None:
        """Check a resource of the batch against those before it."""
        counts, before = dict(batch["counts"]), self.counts
        total = counts.pop("total")
        if self.final is not None and batch != self.final:
            self.faults.append(f"final, then changed: {self.final} -> {batch}")
        if batch["status"] != "validating" and (
            total != len(self.lines) or sum(counts.values()) != total
        ):
            self.faults.append(f"the counts are {batch['counts']} of {len(self.lines)} lines")
        ends = ("succeeded", "failed", "expired", "cancelled")
        if any(counts[name] < before.get(name, 0) for name in ends):
            self.faults.append(f"a count became smaller: {before} -> {counts}")
        self.counts = counts
        if batch["finished_at"] is not None:
            self.final = dict(batch)

    def see_output(self, name: str, content: bytes) -> None:
        """Check that an output continues what was read of it before."""
        if not content.startswith(self.outputs[name]):
            self.faults.append(f"the {name} do not continue what was read before")
        self.outputs[name] = content

    def judge(self) -> None:
        """Record the end of each line, and what is wrong with the outputs."""
        found: Counter[str] = Counter()
        lines = {line.label: line for line in self.lines}
        for name, content in self.outputs.items():
            order = []
            for row in content.splitlines():
                entry = {"result": None, "error": None, **json.loads(row)}
                found[entry["status"]] += 1
                line = lines.get(entry["custom_id"])
                if line is None:
                    self.faults.append(f"{name}: unknown custom_id {entry['custom_id']!r}")
                    continue
                order.append(line.number)
                line.status = entry["status"]
                if line.final is not None:
                    line.changes.append(f"twice in the output: {line.final} and {entry}")
                if entry["job"] != line.ids[0]:
                    line.changes.append(f"has the id {entry['job']}")
                if (name == "results") != (line.status == "succeeded"):
                    self.faults.append(f"{name} have {line.label}, which {line.status}")
                line.final = entry
            if order != sorted(order):
                self.faults.append(f"the {name} are not in the order of the input")
        ended = {name: count for name, count in self.counts.items() if count}
        if self.final is None or self.final["status"] != "succeeded" or ended != dict(found):
            self.faults.append(f"the outputs have {dict(found)}, and the batch is {self.final}")


def plan_batches(count: int, lines: int, seed: int) -> list[StormBatch]:
    """Return `count` batches. The same arguments give the same batches."""
    chance = random.Random(f"batches {seed}")

    def plan(batch: int, number: int) -> LineJob:
        return LineJob(
            number,
            JobKind.ASYNC,
            chance.choice(_MODEL_MS),
            MODEL,
            label=f"{batch}.{number}",
            is_failing=chance.random() < _FAILING_SHARE,
            # The host refuses a body that is much larger than the largest input of a model.
            is_large=chance.random() < _LARGE_SHARE and 2 * batch <= count,
        )

    return [
        StormBatch(batch, [plan(batch, n) for n in range(1, lines + 1)], is_file=2 * batch <= count)
        for batch in range(1, count + 1)
    ]


class BatchCallers(StormCallers):
    """The callers of batches, which repeat each request until it is answered."""

    async def create(self, batch: StormBatch, ran_path: Path) -> None:
        """Create a batch, with requests that have one Idempotency-Key.

        Raises:
            UnexpectedResponse: if the gateway refuses the request.
        """
        lines = [line.line(ran_path) for line in batch.lines]
        document: dict[str, Any] = {"model": MODEL, "label": f"storm-{batch.number}"}
        if batch.is_file:
            document["file"] = {"upload": await self._upload(lines)}
        else:
            document["items"] = lines
        key = {"idempotency-key": f'"{ran_path}{batch.number}"'}
        found = await self.until_answered("POST", "/v1/batches", key, json=document)
        if found.status_code != 202:
            self.refuse(f"batch {batch.number}: {found.status_code} {found.text[:500]}")
            return
        batch.accept(found.json()["id"])

    async def _upload(self, lines: Sequence[Mapping[str, Any]]) -> str:
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        document = {"purpose": "batch"}
        slot = (await self.until_answered("POST", "/v1/uploads", {}, json=document)).json()
        found = await self.until_answered("PUT", slot["url"], slot["headers"], content=content)
        # 409 or 403 if the response to an earlier attempt was lost.
        if found.status_code not in {201, 403, 409}:
            self.refuse(f"upload: {found.status_code} {found.text[:500]}")
        return str(slot["upload"])

    async def watch_batches(self, batches: Sequence[StormBatch]) -> None:
        """Read all accepted batches and their outputs, until this task is cancelled."""
        while True:
            for batch in batches:
                if batch.id:
                    await self.read_batch(batch)
            await asyncio.sleep(_SWEEP_PAUSE_SECONDS)

    async def read_batch(self, batch: StormBatch, host_url: str = "") -> None:
        """Read a batch and its outputs once."""
        path = f"{host_url}/v1/batches/{batch.id}"
        found = await self.until_answered("GET", path, {})
        if found.status_code != 200:
            self.refuse(f"{path}: {found.status_code} {found.text[:500]}")
            return
        batch.see(found.json())
        for name in OUTPUTS:
            output = await self.until_answered("GET", f"{path}/{name}", {}, follow_redirects=True)
            # There is no output before the file is checked.
            if output.status_code == 200:
                batch.see_output(name, output.content)
            elif output.status_code != 404 or batch.outputs[name]:
                self.refuse(f"{path}/{name}: {output.status_code} {output.text[:500]}")


@dataclass(frozen=True)
class BatchStorm:
    """The test, with its batches."""

    batches: list[StormBatch]

    @property
    def jobs(self) -> list[StormJob]:
        """All lines."""
        return [line for batch in self.batches for line in batch.lines]

    async def run(self, rig: Rig, run: Storm) -> None:
        """Create the batches between the kills; then wait for their ends, and check them."""
        await rig.start("worker")
        run.say("every component is ready")
        async with BatchCallers(rig.url, rig.ran_path) as callers:
            async with in_background(callers.watch_batches(self.batches)):
                beside = await self._kill(rig, run, callers)
                await self._wait_until_all_ended(run)
            for url in rig.host_urls:
                for batch in self.batches:
                    await callers.read_batch(batch, url)
            run.retries = callers.retries
        for batch in self.batches:
            batch.judge()
            run.failures += [f"batch {batch.number}: {each}" for each in batch.faults[:_MAX_TOLD]]
        statuses = Counter(str(batch.final and batch.final["status"]) for batch in self.batches)
        run.notes += [
            f"{'batches':<25} {dict(statuses)}",
            f"{'kills beside a batch':<25} {beside} of {len(run.faults)}",
        ]

    async def _kill(self, rig: Rig, run: Storm, callers: BatchCallers) -> int:
        """Carry out the kills, and return during how many a batch ran."""
        options = run.options
        plan = plan_kills(
            options.kills,
            options.seed,
            rig.gateways,
            is_isolated=options.isolated,
            broker=rig.broker,
        )
        left, beside = list(self.batches), 0
        share = max(1, len(plan) // (2 * len(self.batches)))
        async with asyncio.TaskGroup() as creators:
            for number, kill in enumerate(plan):
                if left and number % share == 0:
                    creators.create_task(callers.create(left.pop(0), rig.ran_path))
                await asyncio.sleep(kill.delay_seconds)
                beside += any(batch.id and batch.final is None for batch in self.batches)
                await kill.carry_out(rig)
                run.faults.append(str(kill))
                run.say(f"kill {number + 1} of {len(plan)}, {kill}, {self._show_ended()}")
                await kill.recover(rig)
            for batch in left:
                creators.create_task(callers.create(batch, rig.ran_path))
        return beside

    def _show_ended(self) -> str:
        waiting = ("waiting", "running")
        ended = (sum(n for k, n in b.counts.items() if k not in waiting) for b in self.batches)
        return f"{' + '.join(map(str, ended))} lines"

    async def _wait_until_all_ended(self, run: Storm) -> None:
        """Wait until all batches have ended, or none has changed for `--settle` seconds."""
        with suppress(TimeoutError):
            while left := [batch for batch in self.batches if batch.final is None]:
                before = [batch.counts for batch in left]
                async with asyncio.timeout(run.options.settle):
                    while before == [batch.counts for batch in left]:
                        await asyncio.sleep(_SWEEP_PAUSE_SECONDS)
                        if any(batch.final for batch in left):
                            break
        run.say(f"batches end: {self._show_ended()}")
