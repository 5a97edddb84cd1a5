"""Check and encode the chunks that models emit."""

from contract.messages import Json
from contract.streams import MAX_CHUNK_BYTES, encode_data


def encode_chunk(chunk: Json) -> bytes:
    """Return a chunk as JSON. Raises ValueError if it cannot be one, or if it is too large."""
    try:
        data = encode_data(chunk)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the chunk cannot be written as JSON: {error}") from None
    if len(data) > MAX_CHUNK_BYTES:
        raise ValueError(
            f"the chunk has {len(data)} bytes as JSON; emit at most {MAX_CHUNK_BYTES} bytes at once"
        )
    return data
