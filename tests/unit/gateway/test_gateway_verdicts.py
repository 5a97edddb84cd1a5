"""Test verdicts (sentences about the state of the system), and the reasons why jobs wait."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState
from gateway.operations.verdicts import (
    ANSWERED_SECONDS,
    QueueFigures,
    Severity,
    Verdict,
    VerdictCode,
    WaitCode,
    duration_text,
    find_reason,
    judge,
)
from gateway.queues.workers import SeenWorker, WorkerState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDLE = QueueFigures("classifier")
WAITING = QueueFigures("classifier", normal=40, low=1, oldest_age_seconds=30)


def worker(
    *models: tuple[str, ModelState] | ModelHeartbeat,
    name: str = "pod-7",
    age_seconds: float = 1,
    is_draining: bool = False,
) -> SeenWorker:
    beats = tuple(
        model if isinstance(model, ModelHeartbeat) else ModelHeartbeat(model[0], model[1])
        for model in models
    )
    started_at = NOW - timedelta(seconds=age_seconds + 20)
    beat = Heartbeat(name, "1", started_at, 5.0, is_draining, models=beats)
    return SeenWorker(beat, NOW - timedelta(seconds=age_seconds))


LOADED = worker(ModelHeartbeat("classifier", ModelState.LOADED, in_flight=8))
LOADING = worker(("classifier", ModelState.LOADING))
NOOP, NOOP_LOADED = QueueFigures("noop"), worker(("noop", ModelState.LOADED))
BROKEN_MODEL = ModelHeartbeat("classifier", ModelState.BROKEN, "model-failed", "it raised KeyError")


def summary(verdicts: list[Verdict]) -> list[tuple[str, str | None, str]]:
    return [(each.severity, each.model, each.code) for each in verdicts]


@pytest.mark.parametrize(
    ("workers", "code", "text"),
    [
        ([], WaitCode.NO_WORKER, "no worker seen"),
        ([NOOP_LOADED], WaitCode.NO_WORKER, "no worker seen"),
        (
            [worker(("classifier", ModelState.LOADED), age_seconds=90)],
            WaitCode.NO_WORKER,
            "no worker seen for 90 s",
        ),
        (
            [worker(("classifier", ModelState.LOADED), is_draining=True)],
            WaitCode.NO_WORKER,
            "its only worker is shutting down",
        ),
        ([LOADED], WaitCode.BUSY, "1 worker runs other jobs first (8 in flight)"),
        ([LOADED, LOADING], WaitCode.BUSY, "1 worker runs other jobs first (8 in flight)"),
        (
            [LOADING],
            WaitCode.WORKER_STARTING,
            "1 worker loading the model; the newest has run for 21 s",
        ),
        (
            [worker(("classifier", ModelState.UNLOADED), ("noop", ModelState.LOADED))],
            WaitCode.OTHER_MODEL_RUNS,
            "it is the turn of noop on the device",
        ),
        (
            [worker(("classifier", ModelState.UNLOADED), ("noop", ModelState.BROKEN))],
            WaitCode.NO_MEMORY,
            "no device has enough free memory for the model",
        ),
        (
            [worker(replace(BROKEN_MODEL, code="out-of-memory"))],
            WaitCode.NO_MEMORY,
            "the model does not fit into the device's memory",
        ),
        (
            [worker(BROKEN_MODEL)],
            WaitCode.MODEL_BROKEN,
            "the model cannot be loaded: model-failed: it raised KeyError",
        ),
    ],
)
def test_reason_follows_from_the_workers_states(
    workers: list[SeenWorker], code: WaitCode, text: str
) -> None:
    reason = find_reason(WAITING, workers, NOW)
    assert reason is not None
    assert (reason.code, reason.text) == (code, text)


@pytest.mark.parametrize("normal", [0, None])
def test_empty_or_unknown_queue_has_no_reason(normal: int | None) -> None:
    assert find_reason(replace(IDLE, normal=normal), [], NOW) is None


def test_worker_without_heartbeats_runs_after_a_call() -> None:
    answered = replace(WAITING, answered_seconds=ANSWERED_SECONDS - 1)
    assert find_reason(answered, [], NOW) is None
    assert summary(judge([answered], [], NOW))[0] == (
        *("info", "classifier", VerdictCode.NO_HEARTBEATS),
    )
    quiet = replace(WAITING, answered_seconds=ANSWERED_SECONDS)
    assert find_reason(quiet, [], NOW) is not None


def test_missing_worker_is_critical_while_jobs_wait() -> None:
    seen = worker(("classifier", ModelState.LOADED), age_seconds=90)
    first = judge([WAITING], [seen], NOW)[0]
    assert (first.severity, first.code) == (Severity.CRITICAL, VerdictCode.NO_WORKER)
    assert first.text == "classifier: 41 jobs wait, no worker seen for 90 s."
    assert first.advice


@pytest.mark.parametrize(
    ("queues", "workers", "expected", "text"),
    [
        ([IDLE, NOOP], [], ("info", None, "no-worker"), "No worker runs. No job waits."),
        ([IDLE, NOOP], [NOOP_LOADED], ("info", "classifier", "no-worker"), "classifier"),
        ([IDLE], [LOADED], ("ok", None, "all-well"), "All is well: 1 worker, no job waits."),
        ([IDLE], [worker(BROKEN_MODEL)], ("warning", "classifier", "model-broken"), ""),
        ([WAITING], [worker(BROKEN_MODEL)], ("critical", "classifier", "model-broken"), ""),
    ],
)
def test_system_with_one_state_gets_one_verdict(
    queues: list[QueueFigures], workers: list[SeenWorker], expected: object, text: str
) -> None:
    (verdict,) = verdicts = judge(queues, workers, NOW)
    assert summary(verdicts) == [expected]
    assert verdict.text.startswith(text)


@pytest.mark.parametrize(
    ("queue", "code"),
    [
        (replace(WAITING, in_per_minute=30, out_per_minute=12), VerdictCode.BACKLOG_GROWS),
        (replace(WAITING, oldest_age_seconds=400), VerdictCode.LONG_WAIT),
        (replace(IDLE, dead=3), VerdictCode.DEAD_LETTERS),
        (replace(IDLE, ended_count=10, failed_count=6), VerdictCode.MANY_FAILURES),
        (replace(IDLE, normal=None), VerdictCode.QUEUE_UNKNOWN),
    ],
)
def test_each_problem_of_a_queue_is_a_warning(queue: QueueFigures, code: VerdictCode) -> None:
    assert summary(judge([queue], [LOADED], NOW)) == [("warning", "classifier", code)]


@pytest.mark.parametrize(
    "queue",
    [
        replace(WAITING, in_per_minute=12, out_per_minute=12),
        replace(IDLE, normal=9, in_per_minute=30),
        replace(IDLE, ended_count=4, failed_count=4),
        replace(IDLE, ended_count=100, failed_count=40),
    ],
)
def test_figures_below_the_limits_are_no_warning(queue: QueueFigures) -> None:
    assert [each.code for each in judge([queue], [LOADED], NOW)] == [VerdictCode.ALL_WELL]


def test_silent_worker_is_a_warning_until_replaced() -> None:
    dead = worker(("classifier", ModelState.LOADED), name="pod-1", age_seconds=60)
    alone = judge([IDLE], [dead], NOW)
    assert ("warning", None, "worker-silent") in summary(alone)
    replaced = [each for each in judge([IDLE], [dead, LOADED], NOW) if each.code != "all-well"]
    assert summary(replaced) == [("info", None, "worker-silent")]
    assert "pod-1: no sign of life for 60 s" in replaced[0].text


def test_without_heartbeats_no_verdict_is_about_workers() -> None:
    verdicts = judge([WAITING], [], NOW, has_heartbeats=False)
    assert [each.code for each in verdicts] == ["heartbeats-off", "all-well"]


def test_silent_storage_is_critical_and_first() -> None:
    verdicts = judge([WAITING], [], NOW, unavailable=["the heartbeats"])
    assert summary(verdicts)[0] == ("critical", None, "service-unavailable")
    assert "no-worker" not in [each.code for each in verdicts]


def test_equal_severities_are_sorted_by_age() -> None:
    older = replace(WAITING, model="z", oldest_age_seconds=50)
    verdicts = judge([WAITING, older], [], NOW)
    assert [each.model for each in verdicts] == ["z", "classifier"]


def test_dead_workers_are_grouped_by_cause() -> None:
    causes = ["exited with code 1", "exited with code 1", "was killed by SIGSEGV"]
    seen = [worker(("classifier", ModelState.LOADED), name=f"w-{n}") for n in range(4)]
    for number, death in enumerate(causes):
        beat = replace(seen[number + 1].heartbeat, replaced=f"w-{number}", death=death)
        seen[number + 1] = replace(seen[number + 1], heartbeat=beat)
        seen[number] = replace(seen[number], death=death)
    found = judge([IDLE], seen, NOW)
    assert [each.text for each in found] == [
        "2 worker processes, the last exited with code 1 21 s ago, and was replaced.",
        "The worker process w-2 was killed by SIGSEGV 21 s ago, and was replaced.",
    ]


def test_replaced_worker_is_dead_at_once() -> None:
    dead = replace(worker(("classifier", ModelState.LOADED), age_seconds=0), death="exited")
    assert dead.state(NOW) is WorkerState.SILENT
    (verdict,) = judge([IDLE], [dead, LOADED], NOW)
    assert verdict.text.startswith("All is well: 1 worker,")


@pytest.mark.parametrize(
    ("age_seconds", "state"),
    [(0, "ready"), (13, "ready"), (14, "silent"), (1000, "silent"), (-5, "ready")],
)
def test_worker_is_silent_after_missed_heartbeats(age_seconds: float, state: str) -> None:
    assert worker(("noop", ModelState.LOADED), age_seconds=age_seconds).state(NOW) == state


def test_worker_starts_until_a_model_is_loaded() -> None:
    loading, loaded = ("a", ModelState.LOADING), ("b", ModelState.LOADED)
    assert worker(loading).state(NOW) is WorkerState.STARTING
    assert worker(loading, loaded).state(NOW) is WorkerState.READY
    assert worker(("a", ModelState.UNLOADED)).state(NOW) is WorkerState.READY
    assert worker(loaded, is_draining=True).state(NOW) is WorkerState.DRAINING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (90, "90 s"), (720, "12 min"), (3 * 3600, "3 h"), (86400 * 3, "3 days")],
)
def test_long_duration_has_a_larger_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


names = st.sampled_from(["a", "b", "c"])
numbers = st.none() | st.integers(0, 1000)
queues = st.builds(
    QueueFigures,
    model=names,
    normal=numbers,
    low=numbers,
    scheduled=numbers,
    dead=numbers,
    oldest_age_seconds=st.none() | st.floats(0, 1e6),
    in_per_minute=st.floats(0, 1e4),
    out_per_minute=st.floats(0, 1e4),
    ended_count=st.integers(0, 100),
    failed_count=st.integers(0, 100),
    answered_seconds=st.none() | st.floats(0, 1e6),
)
workers_ = st.lists(
    st.builds(
        lambda models, age, is_draining: worker(*models, age_seconds=age, is_draining=is_draining),
        st.lists(st.tuples(names, st.sampled_from(ModelState)), max_size=3),
        st.floats(-10, 600),
        st.booleans(),
    ),
    max_size=4,
)


@given(st.lists(queues, unique_by=lambda queue: queue.model), workers_, st.booleans())
def test_most_severe_verdict_comes_first(
    figures: list[QueueFigures], workers: list[SeenWorker], has_heartbeats: bool
) -> None:
    verdicts = judge(figures, workers, NOW, has_heartbeats=has_heartbeats)
    ranks = [list(Severity).index(each.severity) for each in verdicts]
    assert ranks == sorted(ranks)
    assert verdicts or not figures
    assert all(each.text.endswith(".") for each in verdicts)
    if Severity.OK in [each.severity for each in verdicts]:
        assert not any(rank < list(Severity).index(Severity.INFO) for rank in ranks)


@given(queues, workers_)
def test_waiting_jobs_have_a_reason_or_a_recent_call(
    figures: QueueFigures, workers: list[SeenWorker]
) -> None:
    reason = find_reason(figures, workers, NOW)
    if not figures.waiting:
        assert reason is None
    elif reason is None:
        assert figures.answered_seconds is not None
        assert figures.answered_seconds < ANSWERED_SECONDS
    else:
        serving = [
            each
            for each in workers
            if each.state(NOW) not in {WorkerState.SILENT, WorkerState.DRAINING}
            and figures.model in [beat.name for beat in each.heartbeat.models]
        ]
        assert (reason.code is WaitCode.NO_WORKER) == (not serving)


def test_replaced_worker_is_reported_for_15_minutes() -> None:
    death = "was restarted: the model slow ran longer than 300 s"
    beat = replace(LOADED.heartbeat, replaced="pod-6", death=death)
    for minutes, expected in ((1, 1), (14, 1), (16, 0)):
        seen = SeenWorker(replace(beat, started_at=NOW - timedelta(minutes=minutes)), NOW)
        found = [each for each in judge([IDLE], [seen], NOW) if each.code == "worker-restarted"]
        assert [(each.severity, f"pod-6 {death}" in each.text) for each in found] == [
            (Severity.WARNING, True)
        ] * expected
