"""The body of a request to FastAPI."""

from typing import Annotated

from fastapi import Depends, Request


async def _read(request: Request) -> bytes:
    return await request.body()


Picture = Annotated[bytes, Depends(_read)]
"""The request's body, unchanged."""
