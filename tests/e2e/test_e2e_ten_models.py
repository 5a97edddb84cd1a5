"""Serve ten models, written as models.md describes, and check the results of each model."""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps

from loosely import Client, InputRejected, Job, JobCancelled
from tests.e2e import by_hand
from tests.e2e.system import ROOT, System, run_loosely, running

pytest.importorskip("onnx", reason="needs the packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the packages onnx and onnxruntime")
pytest.importorskip("torchvision", reason="needs the worker's extra")
from tests.e2e.ten_models.weights import write_tone, write_weights

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(300)]

PICTURE = ROOT / "examples" / "chelsea.jpg"
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'functions'}"}


def loosely(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_loosely(*arguments, folder=folder, **ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ten") / "models-of-a-user"
    shutil.copytree(
        Path(__file__).parent / "ten_models", made, ignore=shutil.ignore_patterns("__pycache__")
    )
    write_weights(made)
    write_tone(made / "tone.wav")
    loosely(made, "models", "lock")
    return made


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[System]:
    with running(folder.parent / "data", environment=ENVIRONMENT, folder=folder) as started:
        yield started


@contextmanager
def client(system: System) -> Iterator[Client]:
    with Client(system.url) as connected:
        yield connected


def run(system: System, model: str, value: object, **parameters: Any) -> Any:
    source: bytes | Path
    match value:
        case Path():
            source, media_type = value, None
        case str():
            source, media_type = value.encode(), "text/plain"
        case _:
            source, media_type = json.dumps(value).encode(), "application/json"
    with client(system) as connected:
        job = connected.run(source, model, media_type=media_type, parameters=parameters)
    return job.result


def test_torchvision_detector_returns_boxes(system: System) -> None:
    objects = run(system, "detector", PICTURE)["objects"]
    assert {"label", "index", "score", "box"} == set(objects[0])


def test_onnx_classifier_returns_sorted_labels(system: System) -> None:
    labels = run(system, "tagger", PICTURE)["labels"]
    assert [each["label"] for each in labels] == ["red", "green", "blue"]
    assert sum(each["score"] for each in labels) == pytest.approx(1, abs=1e-3)


def test_text_model_serves_both_protocols(system: System) -> None:
    assert run(system, "words", "a b a c a b") == {"a": 3, "b": 2, "c": 1}
    assert infer(system, "words", ["a b a", "c"]) == [{"a": 2, "b": 1}, {"c": 1}]


def test_picture_model_returns_a_picture(system: System) -> None:
    with client(system) as connected:
        job = connected.run(PICTURE, "mirror")
        result = connected.result(job.id)
    assert not isinstance(result, Job)
    with Image.open(io.BytesIO(result.body)) as mirrored, Image.open(PICTURE) as original:
        expected = ImageOps.mirror(original.convert("RGB"))
        assert result.media_type == "image/png"
        assert ImageChops.difference(mirrored, expected).getbbox() is None


GOOD = {"name": "x", "flag": True, "count": 7, "share": 1, "order": "down", "numbers": [1, 2]}


def test_parameters_arrive_by_each_interface(system: System, folder: Path) -> None:
    expected = [{}, "x", True, 7, 1.0, "down", [1, 2]]
    assert run(system, "typed", {}, **GOOD) == expected
    assert infer(system, "typed", ["e30="], "application/json", **GOOD) == [expected]
    (folder / "input.json").write_text("{}", encoding="utf-8")
    options = [f"--param={name}={json.dumps(value)}" for name, value in GOOD.items()]
    submit = ["submit", "input.json", "--model", "typed", "--url", system.url, "--json"]
    assert json.loads(loosely(folder, *submit, *options).stdout)["result"] == expected
    with by_hand.reply_queue(system) as queue:
        reply = by_hand.request_reply(
            system, queue, "typed", "typed", input={"json": {}}, parameters=GOOD
        )
    assert reply["result"]["json"] == expected


def test_long_job_reports_progress_and_is_cancelled(system: System) -> None:
    with client(system) as connected:
        body = json.dumps({"steps": 10_000}).encode()
        job = connected.submit(body, "slow", media_type="application/json")
        for event in connected.iter_events(job.id):
            if event.job.progress and event.job.progress.message:
                connected.cancel(job.id)
        assert event.job.status == "cancelled"
        with pytest.raises(JobCancelled):
            connected.wait(job)
    assert run(system, "slow", {"steps": 2}) == {"steps": 2}


def test_model_imports_a_required_package(system: System) -> None:
    assert run(system, "template", "hi {{ name }}", name="Ada") == {"text": "hi Ada"}


def test_both_versions_run_jobs(system: System) -> None:
    for version, count in (("1", 4), ("2", 8)):
        assert len(run(system, f"colours:{version}", PICTURE)["colours"]) == count


def test_audio_model_returns_loudness(system: System, folder: Path) -> None:
    result = run(system, "loudness", folder / "tone.wav")
    assert result == {"loudness": pytest.approx(0.3535, abs=1e-3), "seconds": 1.0}


def test_pinned_weights_serve_both_protocols(system: System) -> None:
    assert run(system, "scores", [1, 2, 3, 4]) == {"scores": [10.0, 11.0, 12.0]}
    tensor = {"name": "input", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    answer = system.http.post("/v2/models/scores/infer", json={"inputs": [tensor]}).json()
    assert json.loads(answer["outputs"][0]["data"][0]) == {"scores": [10.0, 11.0, 12.0]}
    with pytest.raises(InputRejected, match="expected 4 numbers"):
        run(system, "scores", [1, 2])


def test_package_copies_weights_and_requirements(folder: Path) -> None:
    loosely(folder, "package")
    worker = folder / "build" / "worker"
    assert (worker / "requirements.txt").read_text("utf-8") == "jinja2\n"
    names = {path.name for path in (worker / "models" / "weights").iterdir()}
    assert names == {"detector.pth", "scores.safetensors", "tagger.onnx"}


def infer(
    system: System,
    model: str,
    data: list[str],
    content_type: str | None = None,
    **parameters: Any,
) -> list[Any]:
    tensor: dict[str, Any] = {"name": "input", "shape": [len(data)], "datatype": "BYTES"}
    if content_type:
        tensor["parameters"] = {"content_type": content_type}
    body = {"inputs": [{**tensor, "data": data}], "parameters": parameters}
    response = system.http.post(f"/v2/models/{model}/infer", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(each) for each in response.json()["outputs"][0]["data"]]
