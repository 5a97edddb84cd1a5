"""Accept a submit: at once, or as one of many under its Idempotency-Key."""

import dataclasses
from functools import partial
from typing import Final

from fastapi import Request

from contract.catalogue import Model
from contract.claimcheck import fits_inline
from gateway import problems
from gateway.api.context import caller_of, durable_of, services_of, traceparent_of
from gateway.api.submitting.acceptance import Origin, issue, start_and_wait
from gateway.api.submitting.intake import Intake
from gateway.idempotency.claim import claim_blob, fingerprint, parse_key
from gateway.idempotency.following import Answered, Attempt
from gateway.jobs import record
from gateway.problems import Problem

KEY_HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotency-Replayed": "true"}
"""The header of an answer about a job that an earlier request had brought."""


async def accept(
    request: Request, model: Model, intake: Intake, key: str | None, wait_seconds: float
) -> Answered:
    """Start the job, or find the one that the key stands for, and wait; raises Problem."""
    services, durable, tenant = services_of(request), durable_of(request), caller_of(request).tenant
    origin = Origin(tenant, traceparent_of(request))
    write = partial(issue, services, model, intake, origin)
    start = partial(start_and_wait, services, durable, wait_seconds=wait_seconds)
    if key is None:
        issued = await write()
        final = await start(issued)
        return Answered(issued.job_id, final or record.begun(issued), is_replay=False)
    attempt = Attempt(
        services=services,
        durable=durable,
        blob=claim_blob(tenant, key),
        fingerprint=_fingerprint(request, model, intake),
        issue=write,
        start=start,
        is_small=fits_inline(len(intake.data), services.settings.inline_limit_bytes),
    )
    return await attempt.answer(wait_seconds)


def key_of(request: Request) -> str | None:
    """The request's key, or None; the problem malformed-request for what is no key."""
    try:
        return parse_key(request.headers.getlist(KEY_HEADER))
    except ValueError as error:
        raise Problem(problems.MALFORMED_REQUEST, f"{KEY_HEADER}: {error}") from None


def _fingerprint(request: Request, model: Model, intake: Intake) -> str:
    # Whatever else a submit can say becomes part of it by becoming a field.
    said = {
        field.name: getattr(intake, field.name)
        for field in dataclasses.fields(intake)
        if field.name != "data"
    }
    return fingerprint(request.method, model.name, intake.data, said)
