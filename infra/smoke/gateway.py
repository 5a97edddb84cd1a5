"""Send requests to a gateway, to check one claim of the smoke test.

LOOSELY_API_KEY=… python -m infra.smoke.gateway upload --url URL --model NAME --file PICTURE
LOOSELY_API_KEY=… python -m infra.smoke.gateway letter … --id MESSAGE-ID
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from infra.smoke.findings import Finding, FindingResult, Observation, print_findings
from infra.smoke.jobs import REQUEST_SECONDS, Api, JobReport, TimeLimit, make_api, watch

_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_MANAGEMENT_PATH: Final = "/runtime/webhooks/durabletask/instances"
_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class CheckRequest:
    """The arguments of a check, with its time limit in seconds.

    `host_url` is the URL of the Function App itself, without API Management.
    """

    api: Api
    host_url: str
    message_id: str
    seconds: float


def check_upload(request: CheckRequest) -> Observation:
    """Check that a job can read a picture that was uploaded by a signed link."""
    api = request.api
    wanted = f'{{"model": "{api.model}", "media_type": "image/jpeg"}}'.encode()
    status, slot = api.call("POST", "/v1/uploads", wanted, content_type="application/json")
    if status != 201:
        return FindingResult.FAILED, f"the gateway gave no link: {status}"
    link, headers = str(slot.get("url")), dict(slot.get("headers") or {})
    stored = _request("PUT", link, content=api.picture, headers=headers)
    if stored != 201:
        return FindingResult.FAILED, f"the storage refused the upload: {stored}"
    path = f"/v1/models/{api.model}/jobs?upload={slot.get('upload')}"
    status, job = api.call("POST", path, prefer="respond-async")
    if status not in {200, 202}:
        return FindingResult.FAILED, f"the gateway refused a job with the upload: {status}"
    report = JobReport(job_id=str(job.get("id")), status=str(job.get("status")))
    watch(api, report, TimeLimit(request.seconds))
    text = f"a job with an uploaded input ended as {report.ended_as}"
    return FindingResult.HELD if report.status == "succeeded" else FindingResult.FAILED, text


def check_management(request: CheckRequest) -> Observation:
    """Check that the Functions host does not list its orchestrations without a key."""
    if urlsplit(request.host_url).hostname in _LOCAL_HOSTS:
        return FindingResult.NOT_APPLICABLE, "the local Functions host has no keys"
    status = _request("GET", f"{request.host_url}{_MANAGEMENT_PATH}")
    text = f"a request for the orchestrations without a key got {status or 'no response'}"
    return FindingResult.HELD if status in {401, 403, 404} else FindingResult.FAILED, text


def check_device(request: CheckRequest) -> Observation:
    """Check that the model's workers use a GPU, according to their heartbeats."""
    status, overview = request.api.call("GET", "/v1/ops/overview")
    if status != 200:
        return FindingResult.FAILED, f"/v1/ops/overview responded with {status}"
    workers = [
        worker
        for worker in overview.get("workers") or []
        if request.api.model in {model["name"] for model in worker["models"]}
    ]
    if not workers:
        return FindingResult.NOT_APPLICABLE, "no worker of this model runs"
    names = sorted({device["name"] for worker in workers for device in worker["devices"]})
    text = f"the workers of the model use {', '.join(names) or 'no device'}"
    uses_gpu = bool(names) and all(name.startswith("cuda") for name in names)
    return FindingResult.HELD if uses_gpu else FindingResult.FAILED, text


def check_letter(request: CheckRequest) -> Observation:
    """Check that the message becomes a dead letter with a reason, and delete the dead letter."""
    end = time.monotonic() + request.seconds
    path = f"/v1/admin/dead-letters?model={request.api.model}"
    while True:
        status, page = request.api.call("GET", path)
        for letter in page.get("dead_letters") or []:
            if request.message_id in {letter.get("message_id"), letter.get("id")}:
                reason = letter.get("reason")
                # The letter has served its purpose, and operators should not see it.
                request.api.call("DELETE", str(letter["links"]["self"]))
                text = f"an unreadable message is among the dead letters, with the reason {reason}"
                return FindingResult.HELD if reason else FindingResult.FAILED, text
        if time.monotonic() >= end:
            text = f"there is no such dead letter; the gateway responded with {status}"
            return FindingResult.FAILED, text
        time.sleep(_PAUSE_SECONDS)


CHECKS: Final[dict[str, tuple[str, Callable[[CheckRequest], Observation]]]] = {
    "upload": ("an input travels by a signed link", check_upload),
    "management": ("the Durable management API needs a key", check_management),
    "device": ("a worker for the GPU uses the GPU", check_device),
    "letter": ("an unreadable message becomes a dead letter", check_letter),
}
"""For each check its claim and its function."""


def _request(method: str, url: str, **options: Any) -> int:
    """Send a request, and return the HTTP status of the response; 0 without a response."""
    try:
        return httpx.request(method, url, timeout=REQUEST_SECONDS, **options).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check that the first argument names, and print its finding. Return 0."""
    parser = argparse.ArgumentParser(
        prog="infra.smoke.gateway", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--url", required=True, help="the gateway's base URL")
    parser.add_argument("--host-url", default="", help="the Function App's URL, if it is another")
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path, help="the picture of the job")
    parser.add_argument("--id", default="", help="the id of the message to look for")
    parser.add_argument("--seconds", type=float, default=300, help="time limit in seconds")
    given = parser.parse_args(arguments)
    api = make_api(given.url, given.model, given.file)
    host_url = (given.host_url or given.url).rstrip("/")
    claim, check = CHECKS[given.check]
    try:
        result, text = check(CheckRequest(api, host_url, given.id, given.seconds))
    except Exception as error:  # noqa: BLE001  each claim must be in the report
        result, text = FindingResult.FAILED, f"the check itself failed: {type(error).__name__}"
    print_findings([Finding(claim, result, text)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
