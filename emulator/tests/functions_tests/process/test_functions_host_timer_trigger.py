"""Tests of timer triggers in a host process."""

import json
from pathlib import Path

import httpx

from functions_tests.process.host_process import BOTH_FORMS, copy_app, running_host

SETTINGS = {"EVERY": "* * * * * *", "AzureWebJobs.switched_off.Disabled": "true"}


@BOTH_FORMS
async def test_timer_runs_for_every_reason(
    tmp_path: Path,
) -> None:
    folder, data = copy_app("timers", tmp_path / "app"), tmp_path / "data"
    async with running_host(folder, data, environment=SETTINGS) as host:
        await host.logged(r"\[Functions.at_start\] at start False")
        await host.logged(r"\[Functions.often\] tick")
        async with httpx.AsyncClient() as client:
            response = await client.post(f"{host.url}/admin/functions/yearly", json={"input": ""})
            assert response.status_code == 202
            assert (await client.post(f"{host.url}/admin/functions/yearly")).status_code == 202
            bad = await client.post(f"{host.url}/admin/functions/yearly", content=b"[")
            assert bad.status_code == 400
        await host.logged(r"\[Functions.yearly\] yearly False")
        before = len(host.lines)
        await host.logged(r"\[Functions.often\] tick", after=before)
        assert not [line for line in host.lines if "never" in line]
    state = data / "timers" / "yearly.json"
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({**kept, "Next": "2020-01-01T03:00:00+00:00"}))
    async with running_host(folder, data, environment=SETTINGS) as host:
        found = await host.logged(r"\[Functions.yearly\] yearly (\w+) (\{.*\})")
        assert found[1] == "True"
        assert json.loads(found[2])["Next"] == "2020-01-01T03:00:00+00:00"
    assert json.loads(state.read_text())["Next"] > kept["Last"]
