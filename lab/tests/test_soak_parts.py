"""Test the parts of a soak, a load test: jobs, faults, attacks, measurements and result checks."""

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from contract.catalogue import Catalogue
from lab.storm import hostile
from lab.storm.faults import FullDisk, SlowLink, Stop, plan_faults
from lab.storm.footprint import MIB, Life, Slope, choose_warm_up, fit
from lab.storm.jobs import BrokenPromises, JobKind
from lab.storm.kills import Kill
from lab.storm.outside import Outside
from lab.storm.rig import ROOT
from lab.storm.small_disk import FileSizeLimit
from lab.storm.soak import Interval, Soak
from lab.storm.soak_jobs import (
    Form,
    ProducerJob,
    SoakCaller,
    SoakJob,
    encode_json,
    make_bytes,
    plan_soak_jobs,
    soak_catalogue,
)

CALLERS = [SoakCaller("one", "acme", "key-1"), SoakCaller("two", "bolt", "key-2")]
MODELS = ("noop", "counting", "fragile", "classifier", "voice-activity")
SECRET = "whsec_" + "c29ha3NvYWtzb2Frc29ha3NvYWtzb2Fr"
OTHER_SECRET = "whsec_" + "A" * 32
URL = "http://127.0.0.1:1"


def plan(seed: int, count: int = 300) -> list[SoakJob]:
    return list(islice(plan_soak_jobs(seed, CALLERS, MODELS, URL), count))


def accepted(**options: Any) -> SoakJob:
    job = SoakJob(7, JobKind.ASYNC, 5, seed=1, size_bytes=100, **options)
    job.accept("id", "7")
    return job


def ended(status: str, result: Any = None, code: str | None = None) -> dict[str, Any]:
    error = None if code is None else {"code": code}
    return {"id": "id", "status": status, "result": result, "error": error, "finished_at": "now"}


def find_broken(job: SoakJob | ProducerJob, final: dict[str, Any]) -> list[str]:
    job.see(final, job.known)
    broken = BrokenPromises.find([job])
    return [name for name in BrokenPromises.__annotations__ if getattr(broken, name)]


# Jobs


def test_same_seed_plans_same_jobs() -> None:
    assert plan(7) == plan(7) != plan(8)


def test_jobs_cover_models_tenants_and_forms() -> None:
    jobs = plan(1)
    assert {job.model for job in jobs} == set(MODELS)
    assert {job.form for job in jobs} == set(Form)
    assert {job.kind for job in jobs} == set(JobKind)
    assert {job.caller.tenant for job in jobs} == {"acme", "bolt"}
    assert {job.is_low for job in jobs} == {job.has_webhook for job in jobs} == {True, False}
    assert any(job.size_bytes > 64 * 1024 for job in jobs)
    assert any(job.may_expire for job in jobs)


def test_catalogue_has_all_shipped_models(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(soak_catalogue(), encoding="utf-8")
    catalogue = Catalogue.load(path)
    shipped = tomllib.loads((ROOT / "functions/contract/models.toml").read_text("utf-8"))
    assert shipped.keys() < set(catalogue)
    assert catalogue["fragile"].max_delivery_count == 1


@pytest.mark.parametrize(
    ("final", "broken"),
    [
        (ended("failed", code="inference-failed"), ["wrong"]),
        (ended("failed", code="dead-lettered"), ["wrong"]),
        (ended("succeeded", {"size_bytes": 100, "sha256": "0" * 64}), ["wrong"]),
        (ended("cancelled"), ["wrong"]),
        (ended("expired"), ["expired"]),
    ],
)
def test_unexpected_end_is_wrong_or_expired(final: dict[str, Any], broken: list[str]) -> None:
    assert find_broken(accepted(), final) == broken


def test_digest_of_input_is_correct() -> None:
    digest = SoakJob(7, JobKind.ASYNC, 5, seed=1, size_bytes=100)
    result = {"size_bytes": 100, "sha256": _sha256(make_bytes(digest.seed, 7, 100))}
    assert find_broken(accepted(), ended("succeeded", result)) == []


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("options", "final"),
    [
        ({"model": "fragile"}, ended("failed", code="dead-lettered")),
        ({"model": "classifier", "is_broken": True}, ended("failed", code="invalid-input")),
        ({"deadline_seconds": 3}, ended("expired")),
        ({"is_hostile": True}, ended("failed", code="out-of-memory")),
    ],
)
def test_expected_failure_is_not_reported(options: dict[str, Any], final: dict[str, Any]) -> None:
    assert find_broken(accepted(**options), final) == []


def test_hostile_job_without_end_is_lost() -> None:
    assert BrokenPromises.find([accepted(is_hostile=True)]).lost


def test_two_different_replies_are_doubled() -> None:
    job = ProducerJob(1, JobKind.ASYNC, 0)
    job.accept("id", "producer 1")
    right = {"result": {"json": {"sha256": _sha256(encode_json(job.body()))}}}
    job.see_reply(right)
    job.see_reply(right)
    assert not BrokenPromises.find([job])
    job.see_reply({"error": {"code": "expired"}})
    assert BrokenPromises.find([job]).doubled


# Webhooks


@pytest.fixture
async def outside() -> Any:
    async with Outside(1, {"acme": SECRET, "bolt": OTHER_SECRET}) as started:
        yield started


async def deliver(outside: Outside, body: bytes, secret: str = SECRET) -> None:
    """Send a signed webhook to the receiver `outside`. Repeat this until the status is not 503."""
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "event",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("event", now, body.decode()),
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            response = await client.post(
                f"{outside.url}/hook/acme/7", content=body, headers=headers
            )
            if response.status_code != 503:
                return


def with_webhook() -> SoakJob:
    job = accepted(has_webhook=True)
    job.see(ended("succeeded"), job.known)
    return job


async def test_webhook_that_does_not_arrive_is_missing(outside: Outside) -> None:
    assert outside.judge([with_webhook()]).missing == [7]


async def test_webhook_with_job_is_delivered(outside: Outside) -> None:
    await deliver(outside, json.dumps(ended("succeeded")).encode())
    counts = outside.judge([with_webhook()])
    assert (counts.expected, counts.delivered, counts.missing, counts.wrong) == (1, 1, [], [])


async def test_webhook_with_other_job_is_wrong(outside: Outside) -> None:
    await deliver(outside, json.dumps(ended("failed")).encode())
    assert outside.judge([with_webhook()]).wrong == [7]


async def test_webhook_with_other_secret_is_unsigned(outside: Outside) -> None:
    await deliver(outside, json.dumps(ended("succeeded")).encode(), OTHER_SECRET)
    counts = outside.judge([with_webhook()])
    assert (counts.unsigned, counts.missing) == (1, [7])


# Faults


def faults(seed: int, sorts: tuple[str, ...] = ("kill", "stop", "slow", "disk")) -> list[str]:
    made = plan_faults(seed, ("gateway-1", "gateway-2"), FileSizeLimit(), sorts, 5.0)
    return [repr(fault) for fault in islice(made, 100)]


def test_same_seed_plans_same_faults() -> None:
    def numbers(seed: int) -> list[str]:
        return [re.sub(r"<[^>]*>", "", text) for text in faults(seed)]

    assert numbers(7) == numbers(7) != numbers(8)


def test_each_kind_of_fault_is_planned() -> None:
    made = plan_faults(1, ("functions",), FileSizeLimit(), ("kill", "stop", "slow", "disk"), 5.0)
    found = {type(fault) for fault in islice(made, 100)}
    assert found == {Kill, Stop, SlowLink, FullDisk}


def test_no_full_disk_without_small_disk() -> None:
    assert next(plan_faults(1, ("functions",), None, ("disk",), 5.0), None) is None


@pytest.fixture
def writer(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that writes a byte to a file for each line of its standard input.

    After each line, the process prints `written`, or the text of the error if the write failed.
    """
    program = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        f"        with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "            file.write('x')\n"
        "        print('written', flush=True)\n"
        "    except OSError as error:\n"
        "        print(error.strerror, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def ask(process: "subprocess.Popen[str]") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is a call of Linux")
def test_full_disk_refuses_writes(writer: "subprocess.Popen[str]") -> None:
    disk = FileSizeLimit()
    assert ask(writer) == "written"
    disk.fill([writer.pid])
    assert ask(writer) == "File too large"
    disk.free([writer.pid])
    assert ask(writer) == "written"


def test_tmpfs_disappears_with_its_program(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from lab.storm.small_disk import Tmpfs, enter_mount_namespace\n"
        "if not enter_mount_namespace(sys.orig_argv, dict(os.environ)):\n"
        "    sys.exit(5)\n"
        f"disk = Tmpfs(Path({str(tmp_path / 'disk')!r}), 2**20)\n"
        "disk.mount()\n"
        f"file = Path({str(tmp_path / 'disk' / 'file')!r})\n"
        "def write():\n"
        "    try:\n"
        "        file.write_bytes(bytes(200_000))\n"
        "    except OSError as error:\n"
        "        print(error.strerror)\n"
        "    else:\n"
        "        print('written')\n"
        "write()\n"
        "file.write_bytes(b'')\n"
        "disk.fill([])\n"
        "write()\n"
        "disk.free([])\n"
        "write()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if run.returncode == 5:
        pytest.skip("this system permits no mount namespace")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:3] == ["written", "No space left on device", "written"]
    assert not (tmp_path / "disk" / "file").exists()


# Attacks


def test_attacks_are_chosen_by_name() -> None:
    everything = [attack.name for attack in hostile.ATTACKS]
    models = (*MODELS, "tensor")
    for name in everything:
        left = [attack.name for attack in hostile.choose_attacks(f"-{name}", models)]
        assert left == [other for other in everything if other != name]
        assert [one.name for one in hostile.choose_attacks(name, models)] == [name]
    assert hostile.choose_attacks("none", models) == []
    assert [one.name for one in hostile.choose_attacks("all", models)] == everything


def test_attacks_on_unserved_models_are_omitted() -> None:
    models = {attack.model for attack in hostile.choose_attacks("all", ("noop",))}
    assert models == {"noop"}


def test_unknown_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown hostile input bombs: use all, none"):
        hostile.choose_attacks("bombs", MODELS)


def test_huge_picture_has_given_side() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = hostile.make_huge_picture(side=70)
    with image.open(BytesIO(picture)) as opened:
        opened.load()
        assert (opened.size, opened.mode) == ((70, 70), "RGBA")
    assert len(picture) == len(zlib.compress(bytes(70 * 281), 9)) + 57


def test_picture_with_many_scans_is_decoded() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = hostile.make_many_scans(scans=5, side=64)
    assert picture.count(b"\xff\xda") > 5
    with image.open(BytesIO(picture)) as opened:
        opened.load()


def test_hostile_json_is_valid_and_large() -> None:
    brackets = hostile.make_brackets(size_bytes=3000)
    assert len(json.loads(brackets)["input"]["json"]) == 1001
    texts = json.loads(hostile.make_tensor_texts(size_bytes=1000))
    assert max(map(len, texts)) == 500


def test_long_recording_equals_its_header() -> None:
    sound = hostile.make_long_sound(data_bytes=400)
    assert struct.unpack("<I", sound[40:44]) == (400,)
    assert len(sound) == 444


def test_resolver_hangs_only_in_silent_domain() -> None:
    program = (
        "import socket, time\n"
        "time.sleep = lambda seconds: print('hangs', seconds)\n"
        "print(socket.getaddrinfo('127.0.0.1', 1)[0][4])\n"
        "try:\n"
        f"    socket.getaddrinfo('x{hostile.SILENT_DOMAIN}', 1)\n"
        "except socket.gaierror:\n"
        "    print('not found')\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "lab" / "storm" / "resolver"),
        "SOAK_SILENT_DOMAIN": hostile.SILENT_DOMAIN,
    }
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split("\n") == ["('127.0.0.1', 1)", "hangs 30.0", "not found", ""]


# Measurements


def life(begin: float, minutes: float, level: float, per_minute: float) -> Life:
    """Return the samples of an imaginary process that runs for `minutes`, one sample every 5 s.

    The process starts at `begin`, in seconds, with `level` bytes of memory. Its memory then grows
    by `per_minute` bytes each minute. Every fifth sample is a peak, 50 MiB higher.
    """
    count = int(minutes * 12)
    return Life(
        [
            (
                begin + number * 5,
                int(level + per_minute * number / 12 + (50 * MIB if number % 5 == 0 else 0)),
                20,
            )
            for number in range(count)
        ]
    )


def test_slope_ignores_initial_memory() -> None:
    lives = [life(0, 6, 100 * MIB, 3 * MIB), life(400, 8, 300 * MIB, 3 * MIB)]
    slope = fit(lives, 1, warm_up_seconds=60)
    assert slope is not None
    assert slope.per_minute == pytest.approx(3 * MIB, rel=0.05)
    assert slope.is_flat(4 * MIB)
    assert slope.grows(2 * MIB)


def test_slope_ignores_peaks_and_warm_up() -> None:
    grown = life(0, 1, 100 * MIB, 200 * MIB)
    flat = life(60, 10, 300 * MIB, 0)
    slope = fit([Life(grown.samples + flat.samples)], 1, warm_up_seconds=60)
    assert slope is not None
    assert slope.is_flat(0.1 * MIB)
    assert slope.per_minute == pytest.approx(0, abs=0.1 * MIB)


@pytest.mark.parametrize(("minutes", "seconds"), [(60, 300.0), (10, 60.0), (24, 120.0)])
def test_warm_up_is_quarter_or_a_minute(minutes: float, seconds: float) -> None:
    assert choose_warm_up(minutes * 60 / 3) == seconds


def test_uncertain_slope_is_not_growing() -> None:
    slope = Slope(per_minute=400.0, error_per_minute=310.0, observed_seconds=300.0)
    assert not slope.grows(4.0)
    assert not slope.is_flat(4.0)


def test_brief_process_has_no_slope() -> None:
    assert fit([life(0, 2, 0, 1)], 1, warm_up_seconds=60) is None


def test_wait_is_attributed_to_attacks_and_faults() -> None:
    run = Soak.__new__(Soak)
    run.attack_times = [Interval("brackets", 10, 20), Interval("slow-urls", 20)]
    run.fault_times = [Interval("functions", 5, 8)]
    assert run.describe(12.0) == ("brackets+slow-urls", True)
    assert run.describe(25.0) == ("slow-urls", False)
