"""Test embeddings, images, audio and files with the unmodified package `openai`."""

import base64
import hashlib
import io
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.conformance.openai import batch_client
from tests.e2e.openai_catalogue import CATALOGUE, ENGINE
from tests.e2e.system import ROOT, System, running
from tests.engine_server import words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("openai") / "data", CATALOGUE + ENGINE) as started:
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


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


class TestChat:
    def test_text_is_the_answer(self, models: System, client: OpenAI) -> None:
        answer = client.chat.completions.with_raw_response.create(
            model="talker", messages=ask("a b"), metadata={"user": "7"}
        )
        choice = answer.parse().choices[0]
        assert (choice.message.content, choice.finish_reason) == ("a b ", "stop")
        found = models.http.get("/v1/jobs?metadata=user%3D7").json()["jobs"]
        assert [job["id"] for job in found] == [answer.headers["x-loosely-job"]]

    def test_stream_has_each_word(self, client: OpenAI) -> None:
        stream = client.chat.completions.create(
            model="talker",
            messages=ask("one two three"),
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, usage = list(stream)
        words = [chunk.choices[0].delta.content for chunk in chunks]
        assert words == ["one ", "two ", "three ", None]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert (usage.choices, usage.usage is not None) == ([], True)

    def test_words_come_as_they_are_made(self, client: OpenAI) -> None:
        begun_at = time.monotonic()
        stream = client.chat.completions.create(
            model="talker", messages=ask("slow " * 20), stream=True
        )
        times = [time.monotonic() - begun_at for _ in stream]
        assert times[0] < times[-1] - 1

    def test_text_completion(self, client: OpenAI) -> None:
        whole = client.completions.create(model="talker", prompt="a b")
        assert whole.choices[0].text == "a b "
        with OpenAI(base_url=client.base_url, api_key="unused") as lenient:
            stream = lenient.completions.create(model="talker", prompt="a b", stream=True)
            assert [chunk.choices[0].text for chunk in stream] == ["a ", "b ", ""]

    def test_failed_stream_raises(self, client: OpenAI) -> None:
        with pytest.raises(openai.APIError, match="failed on this input"):
            list(client.chat.completions.create(model="talker", messages=ask("fail"), stream=True))

    def test_hang_up_cancels_the_stream(self, models: System, client: OpenAI) -> None:
        stream = client.chat.completions.create(
            model="talker", messages=ask("slow " * 500), stream=True
        )
        job_id = stream.response.headers["x-loosely-job"]
        next(stream)
        stream.close()
        assert models.final(job_id)["status"] == "cancelled"

    def test_models_are_listed(self, client: OpenAI) -> None:
        assert "talker" in {model.id for model in client.models.list()}
        assert client.models.retrieve("talker").owned_by == "loosely"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")


class TestEngine:
    def test_chat_is_that_of_the_engine(self, client: OpenAI) -> None:
        expected = words("tokens=5 hello", 5)
        create = client.chat.completions.create
        messages = ask("tokens=5 hello")
        whole = create(model="engine", messages=messages)
        assert (whole.choices[0].message.content, whole.model) == ("".join(expected), "engine")
        options: Any = {"include_usage": True}
        stream = create(model="engine", messages=messages, stream=True, stream_options=options)
        chunks = list(stream)
        found = [c.choices[0].delta.content for c in chunks if c.choices]
        assert [text for text in found if text] == expected
        assert chunks[-1].usage

    def test_embeddings_pass(self, client: OpenAI) -> None:
        found = client.embeddings.create(model="engine", input=["a", "b"], encoding_format="float")
        assert [len(each.embedding) for each in found.data] == [4, 4]

    def test_refusal_names_the_reason(self, client: OpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError, match="the prompt is too long"):
            client.chat.completions.create(model="engine", messages=ask("fault=refuses"))

    def test_response_resumes_while_it_runs(self, client: OpenAI) -> None:
        asked: Any = {"model": "engine", "input": "tokens=20 rate=10 hello", "background": True}
        stream = client.responses.create(**asked, stream=True)
        first, *_ = (next(stream) for _ in range(4))
        stream.close()
        events = list(client.responses.retrieve(first.response.id, stream=True, starting_after=3))
        assert [event.sequence_number for event in events[:2]] == [4, 5]
        assert events[-1].type == "response.completed"
        assert client.responses.retrieve(first.response.id).status == "completed"


class TestBatch:
    def test_chats_are_answered_in_order(self, client: OpenAI) -> None:
        batch_client.run_chats(client, "engine", 100)

    def test_embeddings(self, client: OpenAI) -> None:
        batch_client.run_embeddings(client, "embedder", 50)

    def test_cancelled_batch_keeps_what_it_has(self, client: OpenAI) -> None:
        batch_client.cancel(client, "engine", 400)

    def test_wrong_lines_are_refused_by_number(self, client: OpenAI) -> None:
        batch_client.refuse(client, "engine")

    def test_transcriptions_of_files(self, client: OpenAI) -> None:
        speech = ROOT / "examples" / "speech.wav"
        by_id = client.files.create(file=speech, purpose="user_data").id
        uri = "data:audio/wav;base64," + base64.b64encode(speech.read_bytes()).decode()
        bodies = [{"model": "listener", "file": each} for each in (by_id, uri)]
        path: Any = "/v1/audio/transcriptions"
        batch = batch_client.wait(client, batch_client.create(client, path, bodies).id)
        output, _ = batch_client.read(client, batch)
        texts = [each["response"]["body"]["text"] for each in output]
        assert len(texts) == 2
        assert texts[0] == texts[1]


def test_data_uri_is_an_input(models: System) -> None:
    speech = base64.b64encode((ROOT / "examples" / "speech.wav").read_bytes()).decode()
    source = {"url": f"data:audio/wav;base64,{speech}"}
    answer = models.http.post("/v1/models/listener/jobs", json={"input": source})
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["duration"] > 0.5
