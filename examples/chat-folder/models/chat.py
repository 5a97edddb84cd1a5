"""The model `chat`: SmolLM2-135M-Instruct."""

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

from worker.models import Accepts, Context, InvalidInput, Weights


class Infer:
    """Answers the request of OpenAI's chat completions or responses, or a question in plain text.

    Args:
        max_tokens: The longest answer, unless the request asks for a shorter one.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, weights: Weights, max_tokens: int = 256) -> None:
        folder, file = weights.path.parent, weights.path.name
        self._max_tokens = max_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        # bfloat16 is slow on CPUs.
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        network = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)
        self._network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def __call__(self, item: bytes, context: Context) -> Generator[str, None, dict[str, Any]]:
        """Yield the words of the answer, and return it with the number of its tokens."""
        request = _read(item)
        prompt = self._tokenizer.apply_chat_template(
            request["messages"],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(self._network.device)
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped = Event()
        options = {**self._options(request, prompt), "streamer": streamer}
        options["stopping_criteria"] = [
            lambda ids, scores: torch.full((len(ids),), stopped.is_set(), device=ids.device)
        ]

        def generate() -> int:
            try:
                return self._network.generate(**prompt, **options).shape[1]
            finally:
                streamer.end()

        running = self._thread.submit(generate)
        words = []
        try:
            for word in streamer:
                context.check()
                if word:
                    words.append(word)
                    yield word
        finally:
            # Also if the job is cancelled.
            stopped.set()
            count = running.result()
        size = prompt["input_ids"].shape[1]
        usage = {"prompt_tokens": size, "completion_tokens": count - size}
        return {"text": "".join(words), "usage": usage}

    def _options(self, request: dict[str, Any], prompt: Any) -> dict[str, Any]:
        """Return the arguments of `generate`. Without a temperature the answer is always equal."""
        names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
        asked = next((request[name] for name in names if request.get(name)), self._max_tokens)
        temperature, top_p = request.get("temperature") or 0, request.get("top_p") or 1
        try:
            limit = min(int(asked), self._max_tokens)
            room = self._network.config.max_position_embeddings - prompt["input_ids"].shape[1]
            temperature, top_p = float(temperature), float(top_p)
        except (TypeError, ValueError):
            raise InvalidInput("max_tokens, temperature and top_p must be numbers") from None
        if limit < 1 or room < limit or not 0 <= temperature <= 2 or not 0 < top_p <= 1:
            raise InvalidInput(
                "max_tokens, temperature or top_p is out of range, or the chat is too long"
            )
        if not temperature:
            return {"max_new_tokens": limit, "do_sample": False}
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        return {"max_new_tokens": limit, **sampling}


def _read(item: bytes) -> dict[str, Any]:
    """Return a request. A text that is not a JSON object is a message of the user."""
    text = item.decode("utf-8", "replace")
    try:
        request = json.loads(text)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return {"messages": [{"role": "user", "content": text.strip()}]}
    messages = request.get("messages") or request.get("input")  # of responses
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise InvalidInput('"messages" must be a list with at least one message')
    if instructions := request.get("instructions"):
        messages = [{"role": "system", "content": instructions}, *messages]
    return {**request, "messages": [_message(each) for each in messages]}


def _message(message: Any) -> dict[str, str]:
    """Return a message whose content is a text, and not a list of parts."""
    try:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content)
        return {"role": str(message["role"]), "content": content}
    except (TypeError, KeyError):
        raise InvalidInput('each message must have "role" and a text as "content"') from None
