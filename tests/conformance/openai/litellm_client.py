"""Call the gateway with litellm. The arguments are those of `python_client`."""

import sys
from pathlib import Path

import litellm


def main(url: str, recording: str, *chats: str) -> None:
    """Run all checks."""
    to_gateway = {"api_base": url, "api_key": "unused"}
    for start in range(0, len(chats), 3):
        model, prompt, expected = chats[start : start + 3]
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": f"openai/{model}", "messages": messages, "max_tokens": 24, **to_gateway}
        text = litellm.completion(**asked).choices[0].message.content
        assert expected in text, text
        chunks = list(litellm.completion(**asked, stream=True))
        streamed = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
        assert expected in streamed, streamed
    vectors = litellm.embedding(model="openai/embedder", input=["cat"], **to_gateway)
    assert len(vectors.data[0]["embedding"]) == 32
    with Path(recording).open("rb") as file:
        heard = litellm.transcription(model="openai/listener", file=file, **to_gateway)
    assert heard.text.endswith(" s"), heard


if __name__ == "__main__":
    main(*sys.argv[1:])
