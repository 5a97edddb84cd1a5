"""Call the gateway with the package `openai`, whose types check each answer at run time.

Arguments: the URL of the OpenAI API, the path of a recording, and then for each chat model its
name, a prompt, and a text that its answer must contain.
"""

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, NotFoundError, OpenAI


def chat(client: Any, model: str, prompt: str, expected: str) -> None:
    """Ask a chat model for whole answers and for streams."""
    messages = [{"role": "user", "content": prompt}]
    asked = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    text = whole.choices[0].message.content
    assert expected in text, text
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed.strip() == text.strip(), (streamed, text)
    assert len(chunks) > 2
    options = {"include_usage": True}
    *_, last = client.chat.completions.create(**asked, stream=True, stream_options=options)
    assert last.usage is not None
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        assert expected in stream.get_final_completion().choices[0].message.content


def respond(client: Any, model: str, prompt: str, expected: str) -> None:
    """Ask for responses: whole, in the background, and as a stream that is resumed."""
    asked = {"model": model, "input": prompt}
    whole = client.responses.create(**asked)
    assert whole.status == "completed", whole
    assert expected in whole.output_text, whole.output_text
    made = client.responses.create(**asked, background=True)
    assert made.status in {"queued", "in_progress", "completed"}, made
    ends_at = time.monotonic() + 120
    while (found := client.responses.retrieve(made.id)).status in {"queued", "in_progress"}:
        assert time.monotonic() < ends_at
        time.sleep(0.2)
    assert (found.id, found.status) == (made.id, "completed")
    assert expected in found.output_text
    events = list(client.responses.create(**asked, background=True, stream=True))
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers)), numbers
    assert events[-1].type == "response.completed", events[-1]
    middle = numbers[len(numbers) // 2]
    resumed = client.responses.retrieve(events[-1].response.id, stream=True, starting_after=middle)
    assert [e.sequence_number for e in resumed] == [n for n in numbers if n > middle]
    long = client.responses.create(model=model, input="slow " * 200, background=True)
    assert client.responses.cancel(long.id).status in {"cancelled", "in_progress", "completed"}


def make(client: Any, recording: Path) -> None:
    """Ask for vectors, pictures, speech, and a transcription."""
    vectors = client.embeddings.create(
        model="embedder", input=["cat", "dog"], encoding_format="float"
    )
    assert [len(each.embedding) for each in vectors.data] == [32, 32]
    picture = client.images.generate(model="painter", prompt="red", size="64x64").data[0]
    data = base64.b64decode(picture.b64_json)
    edited = client.images.edit(model="painter", image=data, prompt="turn it").data[0]
    assert base64.b64decode(edited.b64_json)[:4] == b"\x89PNG"
    transcribe = client.audio.transcriptions.create
    heard = transcribe(model="listener", file=recording)
    verbose = transcribe(model="listener", file=recording, response_format="verbose_json")
    assert heard.text == verbose.text
    assert transcribe(model="listener", file=recording, response_format="text") == heard.text
    speech = client.audio.speech.create(model="speaker", input="hello", voice="alloy")
    assert speech.content[:4] == b"RIFF"


def store(client: Any, recording: Path) -> None:
    """Store, list, read and delete a file."""
    made = client.files.create(file=recording, purpose="user_data")
    assert client.files.retrieve(made.id) == made
    assert made.id in {each.id for each in client.files.list()}
    assert client.files.content(made.id).read() == recording.read_bytes()
    assert client.files.delete(made.id).deleted
    try:
        client.files.retrieve(made.id)
    except NotFoundError:
        return
    raise AssertionError("the deleted file is still there")


async def chat_at_once(url: str, model: str, prompt: str, expected: str) -> None:
    """Ask eight times at once with the asynchronous client."""
    messages: Any = [{"role": "user", "content": prompt}]
    async with AsyncOpenAI(base_url=url, api_key="unused") as client:
        asking = client.chat.completions.create
        answers = await asyncio.gather(
            *(asking(model=model, messages=messages, max_tokens=24) for _ in range(8))
        )
    assert all(expected in str(each.choices[0].message.content) for each in answers)


def main(url: str, recording: str, *chats: str) -> None:
    """Run all checks."""
    with OpenAI(base_url=url, api_key="unused", _strict_response_validation=True) as client:
        names = {model.id for model in client.models.list()}
        for start in range(0, len(chats), 3):
            model, prompt, expected = chats[start : start + 3]
            assert model in names
            chat(client, model, prompt, expected)
            respond(client, model, prompt, expected)
            asyncio.run(chat_at_once(url, model, prompt, expected))
        make(client, Path(recording))
        store(client, Path(recording))


if __name__ == "__main__":
    main(*sys.argv[1:])
