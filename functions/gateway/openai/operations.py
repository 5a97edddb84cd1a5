"""All operations of the OpenAI API, by the names that the catalogue has for them."""

from collections.abc import Mapping
from typing import Final

from gateway.openai.audio import SPEECH, TRANSCRIPTIONS
from gateway.openai.calls import ApiOperation
from gateway.openai.chat import CHAT, COMPLETIONS
from gateway.openai.embeddings import EMBEDDINGS
from gateway.openai.images import EDITS, GENERATIONS
from gateway.openai.responses import RESPONSES

OPERATIONS: Final[Mapping[str, ApiOperation]] = {
    each.name: each
    for each in (
        *(CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS),
        *(GENERATIONS, EDITS, TRANSCRIPTIONS, SPEECH),
    )
}
