"""Verify webhook signatures with the Standard Webhooks package that receivers use."""

import base64
import io
import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from contract.webhook import (
    event_id,
    format_secrets,
    main,
    parse_secrets,
    signed_headers,
    tenant_secrets,
)

OLD, NEW, OTHER = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in range(3))
FIXED = "whsec_ZDTrGbz7nyj/sUBmEd6Wz+zg3S43JFWKuRoIS09mecU="
BODY = json.dumps({"id": "018f", "status": "succeeded"}).encode()


def headers(*secrets: str) -> dict[str, str]:
    return signed_headers(parse_secrets(",".join(secrets)), "job_018f", datetime.now(UTC), BODY)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_old_or_new_secret_verifies(secret: str) -> None:
    assert Webhook(secret).verify(BODY, headers(NEW, OLD)) == json.loads(BODY)


def test_wrong_secret_body_id_or_time_fails() -> None:
    signed = headers(NEW)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY + b" ", signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, {**signed, "webhook-id": "job_018e"})
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, {**signed, "webhook-timestamp": "1"})


def test_tenant_secrets_are_derived_from_its_name() -> None:
    common = parse_secrets(f"{NEW},{OLD}")
    acme, bolt = (tenant_secrets(common, name) for name in ("acme", "bolt"))
    assert acme == tenant_secrets(common, "acme")
    assert len({*acme, *bolt, *common}) == 6
    # Receivers have stored the derived secrets, so later versions must derive the same secrets.
    assert format_secrets(tenant_secrets(parse_secrets(OLD), "acme")) == FIXED
    assert parse_secrets(format_secrets(acme)) == acme
    assert tenant_secrets(common, "") == common, "a gateway without tenants"


def test_command_prints_the_tenants_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{NEW},{OLD}\n"))
    assert main(["acme"]) == 0
    new, old = capsys.readouterr().out.split()
    assert old == FIXED != new


@pytest.mark.parametrize(
    ("tenant", "text", "said"),
    [("acme", "", "is empty"), ("", OLD, "must not be empty"), ("acme", "whsec_%hidden", "base64")],
)
def test_command_refuses_bad_input_without_secrets(
    tenant: str,
    text: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(SystemExit):
        main([tenant])
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert "hidden" not in shown.err
    assert OLD not in shown.err


def test_webhook_without_secrets_is_unsigned() -> None:
    assert "webhook-signature" not in headers()


def test_event_id_contains_no_dots() -> None:
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
def test_refusal_does_not_contain_the_secret(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_secrets(text)
    assert text.removeprefix("whsec_") not in str(refused.value)
