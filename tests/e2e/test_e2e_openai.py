"""Test embeddings, images, audio and files with the unmodified package `openai`."""

import base64
import hashlib
import io
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.e2e.openai_catalogue import CATALOGUE
from tests.e2e.system import ROOT, System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("openai") / "data", CATALOGUE) as started:
        yield started


@pytest.fixture
def client(models: System) -> Iterator[OpenAI]:
    url = f"{models.url}/openai/v1"
    with OpenAI(base_url=url, api_key="unused", _strict_response_validation=True) as opened:
        yield opened


def test_embeddings(models: System, client: OpenAI) -> None:
    answer = client.embeddings.with_raw_response.create(
        model="embedder", input=["cat", "dog"], encoding_format="float"
    )
    expected = [byte / 256 for byte in hashlib.sha256(b"dog").digest()]
    assert answer.parse().data[1].embedding == expected
    job = models.job(answer.headers["x-loosely-job"])
    assert (job["model"], job["status"]) == ("embedder", "succeeded")
    with OpenAI(base_url=client.base_url, api_key="unused") as lenient:  # asks for base64
        assert (
            lenient.embeddings.create(model="embedder", input="dog").data[0].embedding == expected
        )


def test_image_is_made_and_edited(client: OpenAI) -> None:
    made = client.images.generate(model="painter", prompt="red", size="512x512")
    assert made.data
    data = base64.b64decode(made.data[0].b64_json or "")
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("PNG", (512, 512))
    edited = client.images.edit(model="painter", image=data, prompt="turn it")
    assert edited.data
    assert Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json or ""))).size == (
        512,
        512,
    )


def test_speech_is_transcribed(client: OpenAI) -> None:
    speech = client.audio.speech.create(model="speaker", input="hello", voice="alloy").content
    transcribe = client.audio.transcriptions.create
    file = ("a.wav", speech)
    assert transcribe(model="listener", file=file).text == "0.5 s"
    assert transcribe(model="listener", file=file, response_format="text") == "0.5 s"
    verbose = transcribe(model="listener", file=file, response_format="verbose_json", language="de")
    assert (verbose.duration, verbose.language) == (0.5, "de")


def test_file_is_stored_and_deleted(client: OpenAI) -> None:
    path = ROOT / "examples" / "speech.wav"
    made = client.files.create(file=path, purpose="user_data")
    assert (made.filename, made.bytes) == (path.name, path.stat().st_size)
    assert client.files.retrieve(made.id) == made
    assert [each.id for each in client.files.list()] == [made.id]
    assert client.files.content(made.id).read() == path.read_bytes()
    assert client.files.delete(made.id).deleted
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_data_uri_is_an_input(models: System) -> None:
    speech = base64.b64encode((ROOT / "examples" / "speech.wav").read_bytes()).decode()
    source = {"url": f"data:audio/wav;base64,{speech}"}
    answer = models.http.post("/v1/models/listener/jobs", json={"input": source})
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["duration"] > 0.5
