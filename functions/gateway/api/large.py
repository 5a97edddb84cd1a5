"""Results that are too large to go through the gateway: a link to where they are."""

from datetime import timedelta
from mimetypes import guess_extension
from typing import Final

from fastapi import Response

from contract.media import essence
from contract.messages import PayloadRef
from gateway import problems
from gateway.problems import Problem
from gateway.services import Services

LINK_LIFETIME: Final = timedelta(minutes=15)


async def see_other(services: Services, job_id: str, result: PayloadRef) -> Response:
    """303 to a short-lived read-only URL of the result; unknown-job where it is no longer kept."""
    if await services.blobs.look(result.blob) is None:
        raise Problem(problems.UNKNOWN_JOB, "the result is no longer kept")
    file_name = f"{job_id}{guess_extension(essence(result.media_type)) or '.bin'}"
    url = await services.links.to_read(
        result.blob, result.media_type, file_name, services.clock() + LINK_LIFETIME
    )
    # Whoever may see the answer may see the result: no cache may keep it for others.
    return Response(status_code=303, headers={"Location": url, "Cache-Control": "no-store"})
