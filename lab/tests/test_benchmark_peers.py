"""Test the statistics, charts and document that the benchmark `./dev bench peers` makes."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.benchmarks.peers.charts import Bar, bar_chart
from lab.benchmarks.peers.client import Exchange, Exchanges, PeerRequests, longest_silence, run
from lab.benchmarks.peers.environments import REQUIREMENTS, required_names
from lab.benchmarks.peers.measure import is_same_result, latency, make_pictures
from lab.benchmarks.peers.report import number, render
from lab.benchmarks.peers.results import Comparison, PeerRun, Values, median_or_none
from lab.benchmarks.peers.run import add_ratios
from lab.benchmarks.peers.systems import CONFIGURATIONS, ROOT
from lab.benchmarks.peers.verdicts import compare_brokers
from tests.ports import free_port

LOOSELY = "loosely/up"


def values(per_second: float, silence_seconds: float | None = 1.0) -> Values:
    return {
        "p50_ms": 1000 / per_second,
        "p95_ms": 2000 / per_second,
        "per_second_16": per_second,
        "per_second_64": per_second + 1,
        "failures_16": 0.0,
        "failures_64": 0.0,
        "burst_failures": 0.0,
        "burst_seconds": 400 / per_second,
        "lost": 2.0,
        "silence_seconds": silence_seconds,
        "others_mb": 120.0,
        "model_mb": 300.0,
        "wrong": 0.0,
        "ready_seconds": 1.5,
        "stolen_share": 0.02,
        "load_average": 0.5,
    }


def compare(*runs: PeerRun) -> Comparison:
    facts = {"date": "2026-11-26", "processor": "AMD EPYC", "burst requests": "400"}
    return Comparison(facts, {"fastapi": "0.165.0"}, runs=list(runs))


def exchange(begin: float, end: float, status: int = 200) -> Exchange:
    return Exchange(0, begin, end, status, b"")


def test_median_of_mostly_finite_is_finite() -> None:
    assert median_or_none([None, 1.0, 3.0]) == 3.0


def test_median_of_mostly_infinite_is_infinite() -> None:
    assert median_or_none([None, 1.0, None]) is None


def test_medians_skip_failed_runs() -> None:
    comparison = compare(
        PeerRun(1, LOOSELY, "noop", values(100)),
        PeerRun(2, LOOSELY, "noop", values(300)),
        PeerRun(3, LOOSELY, "noop", values(200)),
        PeerRun(4, LOOSELY, "noop", {}, "RuntimeError: not ready"),
        PeerRun(1, LOOSELY, "resnet18", values(7)),
    )
    assert comparison.medians(LOOSELY, "noop")["per_second_16"] == 200


def test_written_comparison_is_read(tmp_path: Path) -> None:
    comparison = compare(
        PeerRun(1, LOOSELY, "noop", values(100, None)),
        PeerRun(1, "arq/polling", "noop", {}, "RuntimeError: not ready"),
    )
    comparison.write(tmp_path / "results.json")
    assert Comparison.read(tmp_path / "results.json") == comparison


class _Answers(BaseHTTPRequestHandler):
    """An HTTP handler that answers each request with the body of the request and status 200.

    If the body is `busy`, the status is 503. If the body is `close`, the connection is closed.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if body == b"close":
            self.close_connection = True
            return
        self.send_response(503 if body == b"busy" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_responses_have_number_of_request(url: str) -> None:
    bodies = [b"first", b"second", b"third"]
    answered: list[int] = []
    found = run(PeerRequests(url, "/jobs", bodies, {"x-test": "1"}), 4, 30, on_ok=answered.append)
    assert [each.number for each in sorted(found.ok, key=lambda each: each.number)] == [*range(30)]
    assert all(each.body == bodies[each.number % 3] for each in found.ok)
    assert answered == [*range(1, 31)]


def test_503_and_closed_connection_are_failures(url: str) -> None:
    found = run(PeerRequests(url, "/jobs", [b"good", b"busy", b"close"], {}), 1, 6)
    assert [each.status for each in found.found] == [200, 503, 0] * 2
    assert len(found.ok) == 2


def test_refused_connection_is_failure() -> None:
    found = run(PeerRequests(f"http://127.0.0.1:{free_port()}", "/jobs", [b"good"], {}), 1, 1)
    assert [each.status for each in found.found] == [0]


def test_latency_is_in_milliseconds() -> None:
    found = latency([exchange(0.0, 0.001 * each) for each in range(1, 102)])
    assert found["p50_ms"] == pytest.approx(51)
    assert found["p95_ms"] == pytest.approx(96)
    assert latency([]) == {"p50_ms": None, "p95_ms": None}


def test_run_ends_at_last_success() -> None:
    exchanges = Exchanges([exchange(1.0, 2.0), exchange(1.5, 4.0), exchange(1.5, 9.0, 500)])
    assert exchanges.seconds == 3.0
    assert len(exchanges.ok) == 2


def test_longest_silence_begins_at_start() -> None:
    assert longest_silence([1.0, 2.0, 5.0, 5.5], begin=1.5) == 3.0
    assert longest_silence([1.0, 9.0], begin=1.5) == 7.5


def test_throughput_is_compared_with_bare_model() -> None:
    measured = values(20)
    add_ratios(measured, before=(15.0, 30.0), after=(25.0, 50.0), burst=400)
    assert measured["bare_ratio"] == 1.0
    assert measured["tuned_ratio"] == 0.5
    assert measured["burst_ratio"] == 1.0


def test_index_and_score_must_be_equal() -> None:
    expected = {"labels": [{"index": 238, "score": 0.0115}]}
    assert is_same_result({"labels": [{"index": 238, "score": 0.011501}]}, expected)
    assert not is_same_result({"labels": [{"index": 238, "score": 0.0110}]}, expected)
    assert not is_same_result({"labels": [{"index": 58, "score": 0.0115}]}, expected)


def test_pictures_are_four_jpegs_of_26_kb() -> None:
    pictures = make_pictures()
    assert len(set(pictures)) == 4
    assert all(24_000 < len(picture) < 28_000 for picture in pictures)
    assert make_pictures() == pictures


def test_chart_is_xml_with_longest_bar() -> None:
    chart = bar_chart(
        "Jobs & <more>",
        "Longer is better.",
        [
            Bar("Celery", [100.0, 150.0], ["100", "150"]),
            Bar("Loosely", [300.0, None], ["300", "-"]),
        ],
    )
    root = ElementTree.fromstring(chart)
    widths = [float(each.attrib["width"]) for each in root.iter() if each.tag.endswith("rect")]
    assert widths[2] == widths[3] == max(widths)
    assert widths[0] == pytest.approx(max(widths) / 3, abs=0.1)
    assert "Jobs & <more>" in [each.text for each in root.iter() if each.tag.endswith("text")]


def test_document_names_fastest_and_failed(tmp_path: Path) -> None:
    ours, theirs = values(200), values(250, None)
    for measured in (ours, theirs):
        add_ratios(measured, (20.0, 25.0), (20.0, 25.0), 400)
    render(
        compare(
            PeerRun(1, LOOSELY, "noop", ours),
            PeerRun(1, "celery/threads", "noop", theirs),
            PeerRun(1, LOOSELY, "resnet18", ours),
            PeerRun(1, "arq/polling", "noop", {}, "RuntimeError: not ready"),
        ),
        tmp_path,
    )
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| noop, ")]
    assert "| noop, jobs/s at 16 clients | 200 | FastAPI + Celery, threads: 250 | 1 of 1 |" in rows
    assert "| noop, longest silence after the kill in s | 1.0 | none | 0 of 1 |" in rows
    assert "- arq/polling, noop, round 1 failed: RuntimeError: not ready" in text
    for picture in re.findall(r"\((benchmarks/\w+\.svg)\)", text):
        assert (tmp_path / picture).is_file()


def test_document_omits_unmeasured_model(tmp_path: Path) -> None:
    render(compare(PeerRun(1, LOOSELY, "noop", values(100))), tmp_path)
    assert "ResNet-18 compared" not in (tmp_path / "benchmarks.md").read_text("utf-8")


def test_document_keeps_the_section_by_hand(tmp_path: Path) -> None:
    page, section = tmp_path / "benchmarks.md", "## A request by layer\n\nBy hand.\n"
    render(compare(PeerRun(1, LOOSELY, "noop", values(100))), tmp_path)
    first = page.read_text("utf-8")
    page.write_text(f"# Old\n\n{section}\n## Old too\n", encoding="utf-8")
    for _ in range(2):
        render(compare(PeerRun(1, LOOSELY, "noop", values(100))), tmp_path)
        method = first.index("## How it was measured")
        assert page.read_text("utf-8") == f"{first[:method]}{section}\n{first[method:]}"


def test_document_shows_infinite_as_never() -> None:
    assert number(None) == "never"
    assert number(1.25, 1) == "1.2"


def test_verdict_is_against_the_faster_celery() -> None:
    rates = {
        "loosely-rabbitmq/up": (90.0, 120.0, 110.0),
        "celery-rabbitmq/threads": (50.0, 60.0, 55.0),
        "celery-rabbitmq/polling": (100.0, 105.0, 100.0),
        "celery/threads": (500.0, 500.0, 500.0),
    }
    runs = [
        PeerRun(number, key, "noop", values(rate))
        for key, each in rates.items()
        for number, rate in enumerate(each, 1)
    ]
    (verdict,) = compare_brokers(compare(*runs), [16])
    assert verdict.is_met
    assert verdict.name == "loosely-rabbitmq, noop, 16 clients"
    assert verdict.value == (
        "110 (90 to 120) jobs/s; celery-rabbitmq/polling 100 (100 to 105): 1.10 (0.90 to 1.14)"
    )


def test_verdict_names_the_slower_system() -> None:
    comparison = compare(
        PeerRun(1, "loosely-redis/up", "tiny", values(90.0)),
        PeerRun(1, "celery/threads", "tiny", values(100.0)),
        PeerRun(2, "celery/threads", "tiny", {}, "RuntimeError: not ready"),
    )
    assert [each.is_met for each in compare_brokers(comparison, [16, 64])] == [False, False]


def test_requirements_have_fixed_versions() -> None:
    for path in REQUIREMENTS.values():
        lines = [line for line in path.read_text("utf-8").splitlines() if line[:1] not in {"", "#"}]
        assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==[\w.]+", line) for line in lines), lines
        assert len(list(required_names(lines))) == len(lines)


def test_started_modules_exist() -> None:
    parts = [part for each in CONFIGURATIONS for command in each.commands for part in command]
    modules = {part.partition(":")[0] for part in parts if part.startswith("benchmarks.")}
    for module in modules:
        path = module.removesuffix(".WorkerSettings").replace(".", "/")
        assert (ROOT / f"{path}.py").is_file(), module
