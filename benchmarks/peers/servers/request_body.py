"""The type `Picture`, with which a route of FastAPI receives the request's body as bytes."""

from typing import Annotated

from fastapi import Depends, Request


async def _read(request: Request) -> bytes:
    return await request.body()


Picture = Annotated[bytes, Depends(_read)]
"""The request's body, unchanged."""
