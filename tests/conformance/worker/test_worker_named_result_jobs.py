"""Test jobs with named results in a worker process."""

from __future__ import annotations

import io

from azure.storage.blob import ContainerClient
from PIL import Image

from contract.messages import InlineBytes, InlineJson, JobError, PayloadRef
from contract.names import PAYLOAD_CONTAINER, is_result_blob
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, job_id, message


def test_small_results_inline_and_large_as_references(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("pictured")
    small, large = job_id(), job_id()
    services.send("pictured", message(gateway, small, "pictured", InlineJson(2)))
    services.send("pictured", message(gateway, large, "pictured", InlineJson(200)))

    reply = gateway.taken(small)
    assert (reply.outcome, list(reply.results)) == (InlineJson(4), ["picture"])
    picture = reply.results["picture"]
    assert isinstance(picture, InlineBytes)
    assert Image.open(io.BytesIO(picture.data)).size == (2, 2)

    reply = gateway.taken(large)
    assert (reply.outcome, list(reply.results)) == (InlineJson(40_000), ["picture", "zeros"])
    with ContainerClient.from_connection_string(services.blobs_url, PAYLOAD_CONTAINER) as container:
        contents = {}
        for name, stored in reply.results.items():
            assert isinstance(stored, PayloadRef)
            assert is_result_blob(large, stored.blob)
            blob = container.download_blob(stored.blob)
            assert blob.properties.content_settings.content_type == stored.media_type
            contents[name] = blob.readall()
    assert Image.open(io.BytesIO(contents["picture"])).size == (200, 200)
    assert contents["zeros"] == b"[" + b"0," * 39_999 + b"0]"
    services.wait_until_empty("pictured")


def test_missing_result_is_named_in_the_error(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("pictured")
    identity = job_id()
    services.send("pictured", message(gateway, identity, "pictured", InlineJson(0)))
    reply = gateway.taken(identity)
    assert isinstance(reply.outcome, JobError)
    assert reply.outcome.code == "inference-failed"
    assert reply.outcome.message.startswith("results.picture: the model did not return this result")
    assert reply.results == {}
    services.wait_until_empty("pictured")
