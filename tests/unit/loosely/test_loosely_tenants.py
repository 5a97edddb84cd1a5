import json
from typing import Any

import pytest

from loosely import NotFound, Tenant
from tests.unit.loosely.both_clients import AnyClient, Connect
from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_gateway import (
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

PATH = "/v1/admin/tenants"
SETTINGS = {"weight": 2.0, "max_queued": 100, "max_running": None, "gpu_seconds_a_day": 3600.0}
ACME: dict[str, Any] = {
    "tenant": "acme",
    "settings": SETTINGS,
    "given": {"weight": 2.0, "max_queued": 100},
    "share": 0.25,
    "waiting": 12,
    "held": 10,
    "running": 2,
    "gpu_seconds_hour": 12.34,
    "gpu_seconds_day": 40.0,
    "models": {},
}
IDLE = {**ACME, "tenant": "", "share": None, "waiting": None, "running": None, "given": None}
CHANGE = {
    "id": "1",
    "at": "2026-01-02T03:04:05Z",
    "by": "ops",
    "tenant": "acme",
    "before": None,
    "after": {"weight": 2, "max_queued": None},
}


def sent(gateway: ScriptedGateway) -> list[tuple[str, str]]:
    return [(each.method, each.target) for each in gateway.requests]


class TestClient:
    @pytest.fixture
    def tenants(self, connect: Connect, gateway: ScriptedGateway) -> AnyClient:
        client = connect(gateway.url)
        client.client = client.client.tenants  # type: ignore[assignment] # it has methods as a client
        return client

    def test_list_has_figures(self, tenants: AnyClient, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, {"tenants": [ACME, IDLE, {"tenant": 7}]})]
        found: tuple[Tenant, ...] = tenants.list()
        assert [each.name for each in found] == ["acme", ""]
        assert (found[0].share, found[0].waiting, found[0].held) == (0.25, 12, 10)
        assert (found[1].share, found[1].running, found[1].held) == (None, None, 10)
        assert found[0].settings == SETTINGS
        assert found[0].own_settings == ACME["given"]
        assert found[1].own_settings is None

    def test_set_sends_only_given(self, tenants: AnyClient, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, ACME)]
        assert tenants.set("a/b", weight=2, max_queued=None).gpu_seconds_hour == 12.34
        assert sent(gateway) == [("PUT", f"{PATH}/a%2Fb")]
        assert json.loads(gateway.requests[0].body) == {"weight": 2, "max_queued": None}

    def test_empty_name_is_tilde(self, tenants: AnyClient, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, IDLE), ScriptedResponse(204, b"")]
        assert tenants.get("").name == ""
        tenants.reset("")
        assert sent(gateway) == [("GET", f"{PATH}/~"), ("DELETE", f"{PATH}/~")]

    def test_audit_is_read(self, tenants: AnyClient, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, {"changes": [CHANGE, {"at": "no time"}]})]
        [change] = tenants.audit(7)
        assert (change.by, change.tenant, change.before) == ("ops", "acme", None)
        assert change.after == CHANGE["after"]
        assert sent(gateway) == [("GET", f"{PATH}/audit?limit=7")]

    def test_refusal_is_raised(self, tenants: AnyClient, gateway: ScriptedGateway) -> None:
        gateway.responses = [problem_response(404, "not-found", "no such tenant")]
        with pytest.raises(NotFound):
            tenants.reset("nobody")


class TestCommand:
    def test_list_is_a_table(self, loosely: Run, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, {"tenants": [ACME, IDLE]})]
        done = loosely("tenants", env={"COLUMNS": "120"})
        _, acme, idle = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert acme == "acme 2 25.0% 12 10 2 12.3 40.0 100 jobs, 3600 GPU s a day"
        assert idle.startswith("~ 2 - - 10 - 12.3")
        lines = loosely("tenants", "--json").stdout.splitlines()
        assert [json.loads(line) for line in lines] == [ACME, IDLE]

    def test_set_keeps_other_settings(self, loosely: Run, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, ACME)]
        options = ("--weight", "4", "--max-running", "5", "--gpu-seconds-a-day", "none")
        done = loosely("tenants", "set", "acme", *options, "--json")
        assert json.loads(done.stdout) == ACME
        assert sent(gateway) == [("GET", f"{PATH}/acme"), ("PUT", f"{PATH}/acme")]
        document = json.loads(gateway.requests[1].body)
        changed = {"weight": 4.0, "max_running": 5, "gpu_seconds_a_day": None}
        assert document == {**ACME["given"], **changed}

    @pytest.mark.parametrize(
        "options", [(), ("--weight", "0"), ("--max-queued", "-1"), ("--max-queued", "many")]
    )
    def test_wrong_set_is_refused(
        self, loosely: Run, gateway: ScriptedGateway, options: tuple[str, ...]
    ) -> None:
        gateway.responses = [json_response(200, ACME)]
        loosely("tenants", "set", "acme", *options, exit_code=2)
        assert gateway.requests == []

    def test_reset_and_show(self, loosely: Run, gateway: ScriptedGateway) -> None:
        gateway.responses = [ScriptedResponse(204, b""), json_response(200, IDLE)]
        assert loosely("tenants", "reset", "~").output == "reset: ~\n"
        assert "\n~ " in loosely("tenants", "show", "~").stdout
        assert sent(gateway) == [("DELETE", f"{PATH}/~"), ("GET", f"{PATH}/~")]

    def test_audit_has_before_and_after(self, loosely: Run, gateway: ScriptedGateway) -> None:
        gateway.responses = [json_response(200, {"changes": [CHANGE]})]
        assert loosely("tenants", "audit").output == (
            "2026-01-02 03:04:05Z  ops  acme  no own settings -> max queued none, weight 2\n"
        )


class TestHeldJob:
    def test_status_shows_place_and_reason(self, loosely: Run, gateway: ScriptedGateway) -> None:
        queue = {"position": 3, "eta_seconds": 12.4, "phase": "share"}
        gateway.responses = [json_response(200, job_document("queued", queue=queue))]
        done = loosely("status", "01982f0c-0000-7000-8000-000000000001")
        text = "position 3 among the tenant's jobs, about 12 s, waits for the tenant's share"
        assert text in " ".join(done.stdout.split())
