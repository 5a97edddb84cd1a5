"""The type of a request body with a picture, for the servers that use FastAPI."""

from typing import Annotated

from fastapi import Depends, Request


async def _read(request: Request) -> bytes:
    return await request.body()


Picture = Annotated[bytes, Depends(_read)]
"""The request's body, unchanged."""
