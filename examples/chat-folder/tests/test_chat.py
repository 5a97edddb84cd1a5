"""Tests of the models `chat` and `embeddings`, which `loosely test` runs."""

import json
from pathlib import Path

import pytest

from loosely import Client, InputRejected

EXAMPLES = Path(__file__).parents[1] / "examples"
JSON = "application/json"


def test_the_capital_of_france_is_paris(loosely_client: Client) -> None:
    stream = loosely_client.stream(EXAMPLES / "question.txt", "chat", media_type="text/plain")
    words = list(stream.chunks())
    assert "".join(words) == stream.result["text"]
    assert len(words) > 3
    assert "Paris" in stream.result["text"]


def test_an_answer_has_at_most_max_tokens(loosely_client: Client) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}]
    asked = json.dumps({"messages": messages, "max_tokens": 4, "temperature": 0.5}).encode()
    result = loosely_client.run(asked, "chat", media_type=JSON).result
    assert result["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("asked", [b'{"messages": 7}', b'{"messages": [{}]}'])
def test_a_wrong_request_is_refused(loosely_client: Client, asked: bytes) -> None:
    with pytest.raises(InputRejected, match="message"):
        loosely_client.run(asked, "chat", media_type=JSON)


def test_similar_sentences_have_similar_vectors(loosely_client: Client) -> None:
    result = loosely_client.run(EXAMPLES / "sentences.json", "embeddings").result
    cat, kitten, market = result["embeddings"]
    assert len(cat) == 384

    def product(other: list[float]) -> float:
        return sum(one * two for one, two in zip(cat, other, strict=True))

    assert product(cat) == pytest.approx(1, abs=1e-5)
    assert product(kitten) > 0.5 > product(market)
