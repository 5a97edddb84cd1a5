"""Webhook signatures, verified by the Standard Webhooks package that receivers use."""

import base64
import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from contract.webhook import event_id, parse_secrets, signed_headers

OLD, NEW, OTHER = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in range(3))
BODY = json.dumps({"id": "018f", "status": "succeeded"}).encode()


def headers(*secrets: str) -> dict[str, str]:
    return signed_headers(parse_secrets(",".join(secrets)), "job_018f", datetime.now(UTC), BODY)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_webhook_signature_is_valid_under_the_old_and_the_new_secret(secret: str) -> None:
    assert Webhook(secret).verify(BODY, headers(NEW, OLD)) == json.loads(BODY)


def test_the_verification_of_a_webhook_fails_for_a_wrong_secret_body_id_or_time() -> None:
    signed = headers(NEW)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY + b" ", signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, {**signed, "webhook-id": "job_018e"})
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, {**signed, "webhook-timestamp": "1"})


def test_a_webhook_is_unsigned_if_there_are_no_secrets() -> None:
    assert "webhook-signature" not in headers()


def test_a_webhook_event_id_contains_no_dots_even_if_the_job_id_contains_dots() -> None:
    assert event_id("a.b-c") == event_id("a.b-c") == "job_a_b-c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sk_hidden", "must start with whsec_"),
        ("whsec_%%%", "base64"),
        ("whsec_c2hvcnQ=", "24 to 64 bytes"),
        (f"{OLD},{NEW}x", "base64"),
    ],
)
def test_the_refusal_of_an_invalid_secret_does_not_contain_the_secret(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_secrets(text)
    assert text.removeprefix("whsec_") not in str(refused.value)
