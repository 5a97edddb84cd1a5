"""Test how an API key, or the header of App Service authentication, identifies a caller."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.authentication import read_principal
from gateway.keys import KeyRing, Scope, main, make_key, parse_keys
from gateway.rates import Rate


def test_only_a_valid_key_identifies_a_caller() -> None:
    made = [make_key(name, f"{name}-tenant", rate_text="5/10") for name in ("a", "b")]
    ring = KeyRing(parse_keys(json.dumps([entry for _, entry in made])))
    for _ in range(2):
        for (key, _), name in zip(made, "ab", strict=True):
            caller = ring.caller(key.encode())
            assert caller is not None
            assert (caller.name, caller.tenant) == (name, f"{name}-tenant")
            assert caller.scopes == {Scope.JOBS_READ, Scope.JOBS_WRITE}
            assert caller.rate == Rate(5, 10)
            assert ring.caller(key[:-1].encode()) is None
            assert ring.caller(key.encode() + b"A") is None


@given(st.binary(max_size=400))
def test_wrong_keys_are_refused_and_not_cached(key: bytes) -> None:
    _, entry = make_key("a", "t")
    ring = KeyRing(parse_keys(json.dumps([entry])))
    assert ring.caller(key) is None
    assert not ring.known


def test_entry_does_not_contain_the_key() -> None:
    key, entry = make_key("a", "t")
    again, _ = make_key("a", "t")
    assert key != again
    assert len(base64.urlsafe_b64decode(key.removeprefix("lsy_") + "=")) == 32
    assert key not in json.dumps(entry)
    (parsed,) = parse_keys(json.dumps([entry]))
    assert repr(parsed.digest) not in repr(parsed)
    assert key not in repr(vars(KeyRing([parsed])))


GOOD: dict[str, Any] = make_key("a", "t")[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name: expected"),
        ({"name": 1}, "name: expected"),
        ({"name": "a\n"}, "name: expected"),
        ({"tenant": ""}, "tenant: expected"),
        ({"tenant": "t" * 65}, "tenant: expected"),
        ({"scopes": []}, "scopes: expected"),
        ({"scopes": "admin"}, "scopes: expected"),
        ({"scopes": ["all"]}, "scopes: expected"),
        ({"scopes": [["all"]]}, "scopes: expected"),
        ({"rate": "fast"}, "rate: expected"),
        ({"rate": 5}, "rate: expected"),
        ({"hash": "secret"}, "hash: expected"),
        ({"hash": "md5:AAAA:AAAA"}, "hash: expected"),
        ({"hash": GOOD["hash"][:-4]}, "hash: expected"),
        ({"hash": GOOD["hash"] + ":AAAA"}, "hash: expected"),
        ({"hash": "hmac-sha256::"}, "hash: expected"),
        ({"key": "secret"}, "expected an object"),
    ],
)
def test_error_contains_no_values_of_the_entry(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^entry 2: {said}") as refused:
        parse_keys(json.dumps([{**GOOD, "name": "b"}, {**GOOD, **change}]))
    assert "secret" not in str(refused.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_setting_is_parsed_or_raises_value_error(value: Any) -> None:
    for text in (json.dumps(value), json.dumps([value]), str(value)):
        with contextlib.suppress(ValueError):
            assert parse_keys(text) == ()


def test_two_keys_with_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="entries 1 and 2 have the same name"):
        parse_keys(json.dumps([GOOD, GOOD]))


def test_a_key_without_a_tenant_is_one_of_its_own() -> None:
    made = [make_key(name) for name in ("a", "b")]
    ring = KeyRing(parse_keys(json.dumps([entry for _, entry in made])))
    callers = [ring.caller(key.encode()) for key, _ in made]
    assert [caller.tenant for caller in callers if caller] == ["a", "b"]


def test_such_a_key_cannot_join_another_tenant() -> None:
    entries = [make_key("b", "a")[1], make_key("a")[1]]
    with pytest.raises(ValueError, match="entry 2 has no tenant, and its name is the tenant of"):
        parse_keys(json.dumps(entries))


def test_command_prints_the_key_and_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ci", "--tenant", "acme", "--scopes", "jobs:read", "admin", "--rate", "9/3"]
    assert main(arguments) == 0
    key, entry = capsys.readouterr().out.splitlines()
    caller = KeyRing(parse_keys(f"[{entry}]")).caller(key.encode())
    assert caller is not None
    assert (caller.name, caller.tenant, caller.rate) == ("ci", "acme", Rate(9, 3))
    assert caller.scopes == {Scope.JOBS_READ, Scope.ADMIN}


@pytest.mark.parametrize(
    "arguments", [[], ["", "--tenant", "a"], ["ci", "--tenant", "a", "--rate", "x"]]
)
def test_command_refuses_wrong_arguments(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "python -m gateway.keys" in capsys.readouterr().err


def header(*claims: tuple[str, str], **more: Any) -> bytes:
    values = [{"typ": name, "val": value} for name, value in claims]
    return base64.b64encode(json.dumps({"claims": values, **more}).encode())


def test_principal_is_converted_to_a_caller() -> None:
    found = read_principal(
        header(
            ("tid", "tenant"),
            ("oid", "somebody"),
            ("roles", "jobs:read"),
            ("groups", "admin"),
            ("http://schemas.microsoft.com/identity/claims/scope", "openid jobs:write"),
        )
    )
    assert found is not None
    assert (found.name, found.tenant, found.rate) == ("somebody", "tenant", None)
    assert found.scopes == {Scope.JOBS_READ, Scope.JOBS_WRITE}


def test_roles_are_read_from_the_named_claim_type() -> None:
    found = read_principal(
        header(("tid", "t"), ("oid", "o"), ("my-role", "admin"), role_typ="my-role")
    )
    assert found is not None
    assert found.scopes == {Scope.ADMIN}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"?",
        b"e30=",
        header(("tid", "t")),
        header(("oid", "o")),
        header(("tid", ""), ("oid", "o")),
    ],
)
def test_principal_without_tenant_or_id_is_ignored(value: bytes) -> None:
    assert read_principal(value) is None


@given(st.binary() | st.text().map(lambda text: base64.b64encode(text.encode())))
def test_no_principal_header_causes_an_error(value: bytes) -> None:
    read_principal(value)


@given(
    st.recursive(
        st.none() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["claims", "typ", "val", "role_typ"]), inner)
        ),
    )
)
def test_no_json_principal_causes_an_error(value: Any) -> None:
    read_principal(base64.b64encode(json.dumps(value).encode()))
