"""Write docs/explanation/benchmarks.md, which compares Loosely with other ways to serve a model.

The document contains charts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from lab.benchmarks.peers.charts import Bar, bar_chart
from lab.benchmarks.peers.results import Comparison, Values
from lab.benchmarks.peers.systems import CONFIGURATIONS, LOOSELY, PeerConfiguration

_CHARTS = "benchmarks"
_NONE = "-"
_BY_HAND = "## A request by layer\n"


@dataclass(frozen=True, slots=True)
class _Row:
    configuration: PeerConfiguration
    values: Values

    @property
    def title(self) -> str:
        title = self.configuration.title
        return f"**{title}**" if self.is_ours else title

    @property
    def is_ours(self) -> bool:
        return self.configuration.is_ours


def number(value: float | None, digits: int = 0, infinite: str = "never") -> str:
    """Return `value` as text with `digits` decimals. If `value` is None, return `infinite`."""
    return infinite if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Return a Markdown table whose columns after the text columns are aligned to the right."""
    rule = [*["---"] * text_columns, *["---:"] * (len(head) - text_columns)]
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(comparison: Comparison, docs: Path) -> None:
    """Write `benchmarks.md` and the charts into the folder `docs`."""
    charts = docs / _CHARTS
    charts.mkdir(parents=True, exist_ok=True)
    for name, chart in make_charts(comparison).items():
        (charts / f"{name}.svg").write_text(chart, encoding="utf-8")
    page = docs / "benchmarks.md"
    by_hand = _section_by_hand(page.read_text("utf-8")) if page.exists() else ""
    page.write_text(make_document(comparison, by_hand), encoding="utf-8")


def _section_by_hand(text: str) -> str:
    """Return the section of an earlier page that this program does not write."""
    _, heading, rest = text.partition(_BY_HAND)
    return heading + rest.partition("\n## ")[0].rstrip() + "\n" if heading else ""


def _rows(comparison: Comparison, task: str) -> list[_Row]:
    found = ((each, comparison.medians(each.key, task)) for each in CONFIGURATIONS)
    return [_Row(each, values) for each, values in found if values]


def _requests(comparison: Comparison, what: str) -> str:
    return comparison.facts.get(f"{what} requests", "?")


def make_charts(comparison: Comparison) -> dict[str, str]:
    """Return the texts of the charts' SVG files, by the names of the charts."""
    noop, resnet = _rows(comparison, "noop"), _rows(comparison, "resnet18")
    charts = {}
    if noop:
        charts["latency"] = bar_chart(
            "One client: median latency in ms",
            "The job only decodes a picture. Shorter is better.",
            _bars(noop, lambda values: [("p50_ms", "", 1)]),
        )
        charts["throughput"] = bar_chart(
            "Jobs per second at 16 and at 64 clients",
            "The job only decodes a picture. Longer is better.",
            _bars(noop, lambda values: [("per_second_16", "", 0), ("per_second_64", "", 0)]),
        )
        charts["memory"] = bar_chart(
            "Peak memory beside the process that holds the model, in MB",
            "Shorter is better.",
            _bars(noop, lambda values: [("others_mb", "", 0)]),
        )
    if resnet:
        charts["resnet18"] = bar_chart(
            "ResNet-18 at 16 clients, compared with a bare loop on one thread",
            "1.00 is the loop in batches of 8. Longer is better.",
            _bars(resnet, lambda values: [("bare_ratio", "", 2)]),
        )
        charts["silence"] = bar_chart(
            "The model process is killed: longest time without an answer in s",
            "At 20 of 100 jobs with ResNet-18, and the number of lost jobs. Shorter is better.",
            _bars(
                resnet,
                lambda values: [("silence_seconds", f" s, {number(values.get('lost'))} lost", 1)],
            ),
        )
    return charts


def _bars(
    rows: Sequence[_Row], series: Callable[[Values], Sequence[tuple[str, str, int]]]
) -> list[Bar]:
    bars = []
    for row in rows:
        names = series(row.values)
        bars.append(
            Bar(
                row.configuration.title,
                [row.values.get(name) for name, _, _ in names],
                [number(row.values.get(name), digits) + text for name, text, digits in names],
                row.is_ours,
            )
        )
    return bars


def _describe_rounds(comparison: Comparison) -> str:
    """Return a text that says how many rounds of measurements the comparison has.

    If the tasks have different numbers of rounds, the text contains the number for each task.
    """
    rounds = {
        task: len({run.round for run in comparison.runs if run.task == task})
        for task in dict.fromkeys(run.task for run in comparison.runs)
    }
    texts = {task: f"{count} round{'s' if count != 1 else ''}" for task, count in rounds.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{task}: {text}" for task, text in texts.items())


def make_document(comparison: Comparison, by_hand: str = "") -> str:
    """Return the text of `benchmarks.md`, with a section that was written by hand."""
    noop, resnet = _rows(comparison, "noop"), _rows(comparison, "resnet18")
    parts = [
        f"""# Loosely beside other ways to serve a model

`./dev bench peers` has written this page. In each round all systems run one after another on one
machine ([below](#how-it-was-measured)), with the same pictures. The client runs on the same
processors. Each value is the median of the rounds ({_describe_rounds(comparison)}).

The task `noop` decodes a JPEG of 26 KB, crops it and returns a constant. The task `resnet18` also
runs torchvision's ResNet-18 on one thread.
"""
    ]
    if noop:
        parts.append(
            f"""## A job that costs nothing
![Jobs per second](benchmarks/throughput.svg)

![Latency](benchmarks/latency.svg)

![Memory](benchmarks/memory.svg)

{_result_table(noop, is_resnet=False)}
"""
        )
    if resnet:
        parts.append(
            f"""## ResNet-18
![ResNet-18 compared with a bare loop](benchmarks/resnet18.svg)

![Silence after a kill](benchmarks/silence.svg)

{_result_table(resnet, is_resnet=True)}

"Of a bare loop" is jobs per second at 16 clients, divided by the pictures per second of a loop
without HTTP and queues that runs batches of 8 on one thread, before and after each system. The
second number compares with a loop that has the faster allocator settings of Loosely's worker. A
system with more threads can be faster than the loop. The burst is compared with the same loop.
"""
        )
    classifier = comparison.medians(f"{LOOSELY}/up", "classifier")
    if classifier:
        parts.append(
            f"Loosely's own classifier (EfficientNet-Lite0) at 16 clients: "
            f"{number(classifier.get('per_second_16'), 1)} jobs/s, "
            f"{number(classifier.get('bare_ratio'), 2)} of the bare loop and "
            f"{number(classifier.get('tuned_ratio'), 2)} of the one with the worker's allocator.\n"
        )
    parts.append(_better(noop, resnet))
    parts += [by_hand] if by_hand else []
    parts.append(_method(comparison))
    return "\n".join(parts)


def _result_table(rows: Sequence[_Row], is_resnet: bool) -> str:
    ratio = ["of a bare loop"] if is_resnet else []
    head = [
        *("system", "ready s", "p50 / p95 ms, 1 client", "jobs/s, 16 clients", "64 clients"),
        *(*ratio, "burst s", "burst: failed", "lost of 100", "longest silence s"),
        *("memory beside the model MB", "model process MB", "wrong answers"),
    ]
    cells = [_result_cells(row, is_resnet) for row in rows]
    zero = [name for name, *values in zip(head, *cells, strict=True) if {*values} == {"0"}]
    shown = [name not in zero for name in head]
    text = table([*compress(head, shown)], [[*compress(line, shown)] for line in cells])
    return f"{text}\n\n0 for all systems: {', '.join(zero)}." if zero else text


def _result_cells(row: _Row, is_resnet: bool) -> list[str]:
    values = row.values

    def cell(name: str, digits: int = 0) -> str:
        return number(values[name], digits) if name in values else _NONE

    digits = 1 if is_resnet else 0
    burst = cell("burst_seconds", digits + 1 if not is_resnet else 1)
    if is_resnet and "burst_ratio" in values:
        burst += f" ({cell('burst_ratio', 2)})"
    ratio = [f"{cell('bare_ratio', 2)} / {cell('tuned_ratio', 2)}"] if is_resnet else []
    return [
        row.title,
        cell("ready_seconds", 1),
        f"{cell('p50_ms', 1)} / {cell('p95_ms', 1)}",
        _with_failures(cell("per_second_16", digits), values.get("failures_16")),
        _with_failures(cell("per_second_64", digits), values.get("failures_64")),
        *ratio,
        burst,
        cell("burst_failures"),
        cell("lost"),
        cell("silence_seconds", 1),
        cell("others_mb"),
        cell("model_mb"),
        cell("wrong"),
    ]


def _with_failures(text: str, failures: float | None) -> str:
    return f"{text} ({failures:.0f} failed)" if failures else text


def _better(noop: Sequence[_Row], resnet: Sequence[_Row]) -> str:
    """Return a section with the best peer, for each measured value, and how many are ahead.

    `noop` and `resnet` are the rows of the result tables of these two tasks.
    """
    compared = [
        ("noop, latency with one client in ms", noop, "p50_ms", 1, False),
        ("noop, jobs/s at 16 clients", noop, "per_second_16", 0, True),
        ("noop, jobs/s at 64 clients", noop, "per_second_64", 0, True),
        ("noop, seconds for the burst", noop, "burst_seconds", 2, False),
        ("noop, longest silence after the kill in s", noop, "silence_seconds", 1, False),
        ("noop, memory beside the model in MB", noop, "others_mb", 0, False),
        ("ResNet-18, latency with one client in ms", resnet, "p50_ms", 1, False),
        ("ResNet-18, share of the bare loop", resnet, "bare_ratio", 2, True),
        ("ResNet-18, seconds for the burst", resnet, "burst_seconds", 1, False),
        ("ResNet-18, longest silence after the kill in s", resnet, "silence_seconds", 1, False),
        ("ResNet-18, lost jobs of 100", resnet, "lost", 0, False),
        ("ready after, in s", resnet, "ready_seconds", 1, False),
    ]
    lines = []
    for what, rows, name, digits, is_more_better in compared:
        ours = next((row.values for row in rows if row.configuration.peer == LOOSELY), {})
        peers = [row for row in rows if not row.is_ours]
        if name not in ours:
            continue
        ahead = _ahead(peers, ours, name, is_more_better)
        best = f"{ahead[0].title}: {number(ahead[0].values[name], digits)}" if ahead else "none"
        lines.append([what, number(ours[name], digits), best, f"{len(ahead)} of {len(peers)}"])
    if not lines:
        return ""
    return f"""## What the peers do better
A peer is ahead also by a small difference.

{table(["what", "Loosely", "best peer ahead", "peers ahead"], lines, text_columns=3)}

- **FastAPI in process** has no second process and no queue. Its thread pool runs the model on all
  processors. If its process dies, it loses every request.
- **Azure SDKs without Loosely** is a Function App and a worker of about 130 lines on the same
  emulators. The difference from Loosely is about the cost of Loosely's own code.
- **Celery, dramatiq and arq** run on Redis, which keeps nothing on disk here. Loosely's local
  services write every job to disk before they accept it.
- **LitServe and BentoML** hold the requests in memory, and lose them if the model's process dies.
- **Loosely** checks each request against a catalogue, keeps each outcome, and can cancel, list and
  deduplicate jobs. The peers do none of that here.
- **Loosely's silence** can be as long as a lock, 10 s. The kill comes just after a response, when
  the worker asks for messages. Those that Service Bus sends at this moment stay locked
  ([why](../how-to/operations.md#when-a-worker-is-killed)).
"""


def _ahead(rows: Sequence[_Row], ours: Values, name: str, is_more_better: bool) -> list[_Row]:
    def merit(values: Values) -> float:
        value = values[name]
        if value is None:
            return float("-inf")
        return value if is_more_better else -value

    ahead = [row for row in rows if name in row.values and merit(row.values) > merit(ours)]
    return sorted(ahead, key=lambda row: merit(row.values), reverse=True)


def _is_disturbed(values: Values) -> bool:
    """Return whether other programs may have changed the measured values."""
    return max(values.get(name) or 0 for name in ("stolen_share", "others_share")) > 0.05


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share * 100:.0f} %"


def _method(comparison: Comparison) -> str:
    facts = comparison.facts
    lines = [
        [
            row.title,
            task,
            _percent(row.values.get("stolen_share")),
            _percent(row.values.get("others_share")),
            number(row.values.get("load_average"), 1),
        ]
        for task in ("noop", "resnet18")
        for row in _rows(comparison, task)
        if _is_disturbed(row.values)
    ]
    head = ["system", "task", "steal", "others", "load"]
    disturbed = f"{table(head, lines, text_columns=2)}\n" if lines else "None.\n"
    settings = dict.fromkeys(
        f"- {row.title}: {row.configuration.settings}"
        for task in ("noop", "resnet18")
        for row in _rows(comparison, task)
    )
    described_settings = "\n".join(settings)
    errors = "".join(
        f"- {run.key}, {run.task}, round {run.round} failed: {run.error}\n"
        for run in comparison.runs
        if run.error
    )
    described = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return f"""## How it was measured
`lab/benchmarks/peers/servers` has the server of each peer.

{described_settings}

In these runs other virtual machines ("steal") or other programs ("others") used over 5 % of the
processors' time; "load" is the load average before the run. Trust them less:

{disturbed}
{errors}
- **Client**: one process (`lab/benchmarks/peers/client.py`) with one persistent connection for each
  client, which sends a request as soon as it has the previous response.
- **Burst**: {_requests(comparison, "burst")} clients send one request each at the same time. A
  response other than 200, or none within 120 s, is a failure.
- **Kill**: 100 clients send one request each. After 20 responses the process with the model gets
  SIGKILL. A request without a 200 within 30 s is lost; none is repeated. One more client sends
  requests from the kill on. The silence is the longest time without a successful response.
- **Memory**: the sum of the peak resident memory of all processes before the kill, with Redis or
  Service Bus. Shared pages count several times.
- **Loosely** is `loosely up` with its emulators. In Azure other programs do this work.
- **BentoML** runs as one service; its other form answers many requests with 500 under load in
  version 1.4.40 ([issue 5540](https://github.com/bentoml/BentoML/issues/5540)).

{described}
- versions: {versions}

To repeat it on Debian or Ubuntu:

```sh
sudo apt-get install --no-install-recommends redis-server
./dev bench peers --rounds 3
```

The first run makes `.venv-peers`, about 3 GB. `--peers loosely,celery` measures fewer systems,
`--tasks noop` one task; `--render docs/explanation/benchmarks/peers.json` only writes this page.
"""
