"""Defines `Picture`, the type of a parameter that receives the request's body in FastAPI routes."""

from typing import Annotated

from fastapi import Depends, Request


async def _read(request: Request) -> bytes:
    return await request.body()


Picture = Annotated[bytes, Depends(_read)]
"""The request's body, unchanged."""
