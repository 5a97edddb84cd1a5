"""Accept a submit: at once, or as one of many under its Idempotency-Key."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Final, TypeVar

from fastapi import Request

from contract.catalogue import Model
from contract.claimcheck import fits_inline
from gateway import problems
from gateway.api.context import caller_of, durable_of, services_of, traceparent_of
from gateway.api.submitting.acceptance import Origin, issue, start_and_wait
from gateway.api.submitting.intake import Intake
from gateway.idempotency.claim import claim_blob, fingerprint, parse_key
from gateway.idempotency.following import Answered, Attempt, waited
from gateway.jobs import record
from gateway.problems import Problem

T = TypeVar("T")

KEY_HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotency-Replayed": "true"}
"""The header of an answer about a job that an earlier request had brought."""


async def accept(
    request: Request, model: Model, intake: Intake, key: str | None, wait_seconds: float
) -> Answered:
    """Start the job, or find the one that the key stands for, and wait; raises Problem."""
    if key is None:
        (answered,) = await _accept_new(request, model, [intake], wait_seconds)
        return answered
    said = _fingerprint(request, model, intake)
    attempt = _attempt(request, model, intake, (key, said), wait_seconds)
    return await attempt.answer(wait_seconds)


async def accept_all(
    request: Request,
    model: Model,
    intakes: Sequence[Intake],
    key: str | None,
    wait_seconds: float,
) -> list[Answered]:
    """The same for jobs that one request brings: all of them together stand under its key."""
    if key is None:
        return await _accept_new(request, model, intakes, wait_seconds)
    each = "\n".join(_fingerprint(request, model, intake) for intake in intakes)
    said = fingerprint(request.method, model.name, each.encode(), {"jobs": len(intakes)})
    # The first job's claim tells whether the key is free, so nothing else starts before. The claims
    # of the others are named after that job, as no key can be: they are as old, and go with it.
    first_wait_seconds = wait_seconds if len(intakes) == 1 else 0
    attempt = _attempt(request, model, intakes[0], (key, said), first_wait_seconds)
    first = await attempt.answer(first_wait_seconds)
    if len(intakes) == 1:
        return [first]
    others = [
        _attempt(request, model, intake, (f"{first.job_id}\n{number}", said), wait_seconds)
        for number, intake in enumerate(intakes[1:], 1)
    ]
    return await _together(
        [
            waited(services_of(request), durable_of(request), first, wait_seconds),
            *(other.answer(wait_seconds) for other in others),
        ]
    )


def key_of(request: Request) -> str | None:
    """The request's key, or None; the problem malformed-request for what is no key."""
    try:
        return parse_key(request.headers.getlist(KEY_HEADER))
    except ValueError as error:
        raise Problem(problems.MALFORMED_REQUEST, f"{KEY_HEADER}: {error}") from None


async def _accept_new(
    request: Request, model: Model, intakes: Sequence[Intake], wait_seconds: float
) -> list[Answered]:
    services, durable, origin = services_of(request), durable_of(request), _origin(request)
    # All are written down before one is started: what refuses one of them refuses the request.
    issued = [await issue(services, model, intake, origin) for intake in intakes]
    ended = await _together(
        [start_and_wait(services, durable, job, wait_seconds) for job in issued]
    )
    return [
        Answered(job.job_id, final or record.begun(job), is_replay=False)
        for job, final in zip(issued, ended, strict=True)
    ]


async def _together(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """What comes of all of them; the first error once all are done, which none is left alone by."""
    if len(jobs) == 1:
        return [await jobs[0]]
    found = await asyncio.gather(*jobs, return_exceptions=True)
    results = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results


def _attempt(
    request: Request, model: Model, intake: Intake, claimed: tuple[str, str], wait_seconds: float
) -> Attempt:
    """One job's attempt; what is claimed is a key, for what its request said."""
    services, durable = services_of(request), durable_of(request)
    key, said = claimed
    return Attempt(
        services=services,
        durable=durable,
        blob=claim_blob(caller_of(request).tenant, key),
        fingerprint=said,
        issue=partial(issue, services, model, intake, _origin(request)),
        start=partial(start_and_wait, services, durable, wait_seconds=wait_seconds),
        is_small=fits_inline(len(intake.data), services.settings.inline_limit_bytes),
    )


def _origin(request: Request) -> Origin:
    return Origin(caller_of(request).tenant, traceparent_of(request))


def _fingerprint(request: Request, model: Model, intake: Intake) -> str:
    # Whatever else a submit can say becomes part of it by becoming a field.
    said = {
        field.name: getattr(intake, field.name)
        for field in dataclasses.fields(intake)
        if field.name != "data"
    }
    return fingerprint(request.method, model.name, intake.data, said)
