"""Test jobs with named inputs and named results in a worker process."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from azure.servicebus import ServiceBusMessage
from azure.storage.blob import ContainerClient
from PIL import Image

from contract.messages import (
    InlineBytes,
    InlineJson,
    InputPayload,
    JobError,
    PayloadRef,
    decode_request,
    encode_request,
    reference,
)
from contract.names import PAYLOAD_CONTAINER, input_blob, is_result_blob
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, job_id, message


def named(
    gateway: Gateway, identity: str, first: PayloadRef | InlineJson, other: InputPayload
) -> ServiceBusMessage:
    plain = message(gateway, identity, "compared", first)
    request = replace(decode_request(b"".join(plain.body)), inputs={"other": other})
    return ServiceBusMessage(encode_request(request), message_id=identity, correlation_id=identity)


def test_inputs_come_from_message_and_blobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("compared")
    inline, stored, large, lost = job_id(), job_id(), job_id(), job_id()
    small, big = b"[1,2]", json.dumps([0] * 400_000).encode()
    with ContainerClient.from_connection_string(services.blobs_url, PAYLOAD_CONTAINER) as container:
        if not container.exists():
            container.create_container()
        references = {}
        for identity, data in ((stored, small), (large, big)):
            for name in (None, "other"):
                blob = input_blob(identity, name)
                container.upload_blob(blob, data)
                references[identity, name] = reference("application/json", blob, data)
    absent = PayloadRef("application/json", "inputs/none/other", 2, "0" * 64)
    services.send(
        "compared",
        named(gateway, inline, InlineJson([1]), InlineJson([1, 2, 3])),
        named(gateway, stored, InlineJson([1]), references[stored, "other"]),
        named(gateway, large, references[large, None], references[large, "other"]),
        named(gateway, lost, InlineJson([1]), absent),
    )
    assert gateway.taken(inline).outcome == InlineJson([1, 3])
    assert gateway.taken(stored).outcome == InlineJson([1, 2])
    assert gateway.taken(large).outcome == InlineJson([400_000, 400_000])
    error = gateway.taken(lost).outcome
    assert isinstance(error, JobError)
    assert error.code == "payload-corrupt"
    assert error.message.startswith("inputs.other: the blob of the input does not exist")
    services.wait_until_empty("compared")


def test_small_results_are_inline_and_large_ones_in_blobs(
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
