"""Test jobs with named inputs in a worker process."""

from __future__ import annotations

import json
from dataclasses import replace

from azure.servicebus import ServiceBusMessage
from azure.storage.blob import ContainerClient

from contract.messages import (
    InlineJson,
    InputPayload,
    JobError,
    PayloadRef,
    decode_request,
    encode_request,
    reference,
)
from contract.names import PAYLOAD_CONTAINER, input_blob
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, job_id, message


def named(
    gateway: Gateway, identity: str, first: PayloadRef | InlineJson, **inputs: InputPayload
) -> ServiceBusMessage:
    """Return the message of a job with named inputs for the model `compared`.

    `identity` is the job's id, `first` is its first input, and `inputs` are its named inputs.
    """
    plain = message(gateway, identity, "compared", first)
    request = replace(decode_request(b"".join(plain.body)), inputs=inputs)
    return ServiceBusMessage(encode_request(request), message_id=identity, correlation_id=identity)


def test_inputs_come_from_message_and_blobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("compared")
    inline, stored, large = job_id(), job_id(), job_id()
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
    services.send(
        "compared",
        named(gateway, inline, InlineJson([1]), other=InlineJson([1, 2, 3])),
        named(gateway, stored, InlineJson([1]), other=references[stored, "other"]),
        named(gateway, large, references[large, None], other=references[large, "other"]),
    )
    assert gateway.taken(inline).outcome == InlineJson([1, 3])
    assert gateway.taken(stored).outcome == InlineJson([1, 2])
    assert gateway.taken(large).outcome == InlineJson([400_000, 400_000])
    services.wait_until_empty("compared")


def test_missing_or_unusable_input_fails_the_job(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    with ContainerClient.from_connection_string(services.blobs_url, PAYLOAD_CONTAINER) as container:
        if not container.exists():
            container.create_container()
    start_worker("compared")
    lost = PayloadRef("application/json", "inputs/none/other", 2, "0" * 64)
    inputs: dict[str, dict[str, InputPayload]] = {
        job_id(): {},
        job_id(): {"mask": InlineJson(1), "other": InlineJson(1)},
        job_id(): {"other": lost},
    }
    services.send(
        "compared",
        *(named(gateway, each, InlineJson([1]), **given) for each, given in inputs.items()),
    )
    expected = [
        ("invalid-input", "inputs.other: the input is missing; send it"),
        ("invalid-input", "inputs.mask: the model has no such input"),
        ("payload-corrupt", "inputs.other: the blob of the input does not exist"),
    ]
    for identity, (code, text) in zip(inputs, expected, strict=True):
        outcome = gateway.taken(identity).outcome
        assert isinstance(outcome, JobError)
        assert outcome.code == code
        assert outcome.message.startswith(text)
    services.wait_until_empty("compared")


def test_unknown_schema_version_is_dead_lettered(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("compared")
    identity = job_id()
    plain = named(gateway, identity, InlineJson([1]), other=InlineJson([1]))
    document = {**json.loads(b"".join(plain.body)), "schema": 3}
    services.send("compared", ServiceBusMessage(json.dumps(document), message_id=identity))
    letter = services.dead_letter("compared", identity)
    assert letter.dead_letter_reason == "unsupported-schema"
    assert "this program reads 1 and 2" in str(letter.dead_letter_error_description)
