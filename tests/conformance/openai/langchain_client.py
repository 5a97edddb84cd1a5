"""Call the gateway with LangChain. The arguments are those of `python_client`."""

import asyncio
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings


async def stream(chat: ChatOpenAI, prompt: str) -> str:
    """Return the text of an asynchronous stream."""
    return "".join([str(each.content) async for each in chat.astream(prompt)])


async def main(url: str, _recording: str, *chats: str) -> None:
    """Run all checks. LangChain shares asynchronous connections, so they need one event loop."""
    to_gateway = {"base_url": url, "api_key": "unused"}
    for start in range(0, len(chats), 3):
        model, prompt, expected = chats[start : start + 3]
        chat = ChatOpenAI(model=model, max_completion_tokens=24, temperature=0, **to_gateway)
        text = str(chat.invoke(prompt).content)
        assert expected in text, text
        assert "".join(str(each.content) for each in chat.stream(prompt)).strip() == text.strip()
        assert expected in await stream(chat, prompt)
    vectors = OpenAIEmbeddings(model="embedder", check_embedding_ctx_length=False, **to_gateway)
    assert [len(each) for each in vectors.embed_documents(["cat", "dog"])] == [32, 32]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
