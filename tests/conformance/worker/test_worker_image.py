"""Create the files of the worker's image without Docker, and start the image's programs.

The test's Python environment replaces /opt/venv, and a folder replaces the root of the image. As in
our pods, processes can write only to /tmp and to the folders that the image creates.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    ROOT,
    LocalServices,
    job_id,
    message,
)
from tests.ports import free_port

USER = 10001


@dataclass(frozen=True)
class Stage:
    """Reads the instructions of the last stage of a Dockerfile. `text` is the whole Dockerfile."""

    text: str

    @cached_property
    def instructions(self) -> list[tuple[str, str]]:
        last = self.text.split("\nFROM ")[-1]
        lines = re.sub(r"^#.*\n", "", last, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
        pairs = (line.split(maxsplit=1) for line in lines[1:] if line)
        return [(name, rest) for name, rest in pairs]

    def all(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]

    def one(self, name: str) -> str:
        [rest] = self.all(name)
        return rest

    def command(self, name: str) -> list[str]:
        """Return the command of the instruction `name`, ENTRYPOINT or HEALTHCHECK, as words."""
        words: list[str] = json.loads(self.one(name).rpartition(" CMD ")[2])
        return words

    def environment(self) -> dict[str, str]:
        return dict(part.split("=", 1) for part in shlex.split(self.one("ENV")))


@dataclass(frozen=True)
class Image:
    """The files of the worker's container image, in the folder `root`."""

    root: Path
    stage: Stage

    def inside(self, path: str) -> str:
        return str(self.root) + path

    def environment(self, **settings: str) -> dict[str, str]:
        image = self.stage.environment()
        assert image["PATH"].startswith("/opt/venv/bin:")
        image["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        # Name the folder of the packages, because the image's user cannot read root's home.
        packages = sysconfig.get_path("purelib")
        image["PYTHONPATH"] = f"{self.inside(image['PYTHONPATH'])}:{packages}"
        return image | {"TMPDIR": self.inside("/tmp")} | settings

    def start(self, command: list[str], **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*confinement(), *command],
            cwd=self.inside(self.stage.one("WORKDIR")),
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def files(self) -> dict[str, int]:
        """Return each path under /app with the time of its last change, in nanoseconds."""
        tree = sorted((self.root / "app").rglob("*"))
        return {str(path): path.stat().st_mtime_ns for path in tree}


def confinement() -> list[str]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    for prefix in (user, [*user, *reading]):
        done = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, check=False)
        if done.returncode == 0:
            return prefix
    return []


def lay_out(stage: Stage, root: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")  # as in .dockerignore
    for copied in stage.all("COPY"):
        if not copied.startswith("--from=build"):
            source, target = copied.split()
            shutil.copytree(ROOT / source, f"{root}{target}", ignore=ignored)
    [made] = re.findall(r"install --directory --owner=10001 --group=10001 (.*)", stage.one("RUN"))
    for folder in [*made.split(), "/tmp"]:
        Path(f"{root}{folder}").mkdir(parents=True, exist_ok=True)
        Path(f"{root}{folder}").chmod(0o777)
    for path in [root / "app", *(root / "app").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    stage = Stage((ROOT / "worker" / "Dockerfile").read_text(encoding="utf-8"))
    # Not under pytest's folder, which only its owner can enter.
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        lay_out(stage, root)
        yield Image(root, stage)
        for path in (root / "app").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


def pod_settings(image: Image) -> dict[str, str]:
    """Return the settings that infra/k8s gives every worker, with this machine's paths."""
    lines = (ROOT / "infra/k8s/base/workers/worker.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    for name, value in settings.items():
        if value.startswith("/"):
            settings[name] = image.inside(value)
    return settings


def test_entrypoint_starts_a_worker_that_drains(
    image: Image, services: LocalServices, gateway: Gateway
) -> None:
    before = image.files()
    settings = pod_settings(image) | {
        "SERVICE_BUS": services.service_bus_url,
        "PAYLOAD_STORAGE": services.blobs_url,
        "WORKER_MODELS": "noop",
        "REPLY_HOSTS": gateway.host,
        "HEALTH_PORT": str(free_port()),
        # The exporter would ask for a token of a managed identity.
        "OTEL_SDK_DISABLED": "true",
    }
    identity = job_id()
    # The first reply is not accepted, so that the job is in flight when the signal comes.
    gateway.answers[identity] = [503, 202]
    services.send("noop", message(gateway, identity, "noop", {"text": "hello"}))
    process = image.start(image.stage.command("ENTRYPOINT"), **settings)
    try:
        gateway.wait_for(lambda: (identity, 503) in gateway.posts)
        assert is_healthy(image, settings)
        assert image.stage.one("USER") == f"{USER}:{USER}"
        if confinement():
            assert Path(f"/proc/{process.pid}").stat().st_uid == USER
        process.send_signal(signal.Signals[image.stage.one("STOPSIGNAL")])
        told, _ = process.communicate(timeout=30)
        assert process.returncode == 0, told
        assert "Traceback" not in told
        assert all(json.loads(line)["message"] for line in told.splitlines())
        assert gateway.taken(identity)
        assert not is_healthy(image, settings)
    finally:
        process.kill()
        process.wait(10)
    assert image.files() == before, "a file in the folder with the code has changed"
    services.wait_until_empty("noop")


def is_healthy(image: Image, settings: dict[str, str]) -> bool:
    check = image.start(image.stage.command("HEALTHCHECK"), **settings)
    check.communicate(timeout=30)
    return check.returncode == 0


def test_missing_settings_are_a_one_line_error(image: Image) -> None:
    process = image.start(image.stage.command("ENTRYPOINT"))
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 2, told
    assert told.count("\n") == 1


def test_code_folder_is_read_only(image: Image) -> None:
    if not confinement() and os.geteuid() == 0:
        pytest.skip("root can write everywhere, and setpriv is not installed to use another user")
    code = "open('worker/stray', 'w')"
    process = image.start([sys.executable, "-c", code])
    told, _ = process.communicate(timeout=30)
    assert "Permission" in told or "Read-only" in told
