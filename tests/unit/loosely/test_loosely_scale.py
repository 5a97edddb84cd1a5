"""Test `loosely up --scale`: how its options are parsed, and the plan of a worker pool."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from typer import BadParameter
from typer.testing import CliRunner

from loosely.cli import app
from loosely.cli.up import parse_scaling, plan_worker_pool
from loosely.local.errors import CatalogueInvalid
from loosely.local.model_scaling import read_model_scaling
from loosely.local.parts import SystemSettings, loosely_parts, worker_part
from loosely.local.ports import Ports

SETTINGS = SystemSettings(
    Path("/r"), Path("/r/.loosely"), Ports.from_base(9000), "c2VjcmV0", "info"
)


def test_rules_are_those_of_keda_but_faster() -> None:
    scaling = parse_scaling("0:4", 5, 1.0, 20.0)
    assert (scaling.min_replica_count, scaling.max_replica_count) == (0, 4)
    assert scaling.message_count == 5
    assert scaling.polling_interval_seconds == scaling.sync_period_seconds == 1.0
    assert scaling.cooldown_period_seconds == 20.0
    assert scaling.behavior.scale_down.stabilization_window_seconds == 20.0
    assert scaling.behavior.scale_up.stabilization_window_seconds == 0.0


@pytest.mark.parametrize("text", ["", "4", "4:", ":4", "a:b", "-1:4", "5:4", "0:0", "1:2:3", "0:²"])
def test_invalid_range_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        parse_scaling(text, 5, 1.0, 20.0)


def test_workers_have_distinct_names_and_ports() -> None:
    worker = loosely_parts(SETTINGS)[-1]
    plan = plan_worker_pool(SETTINGS, parse_scaling("0:4", 5, 1.0, 20.0), {}, worker, {})
    second = plan.make_worker(2, 9010)
    assert second.name == "worker-2"
    # Another worker of the pool may have a model that is not broken.
    single = dict(worker.environment)
    assert single.pop("WORKER_BROKEN_MODEL_SECONDS") == "30"
    assert second.environment == {**single, "HEALTH_PORT": "9010"}
    watched = worker_part(replace(SETTINGS, is_watching=True), 2, 9010)
    assert watched.environment == {**worker.environment, "HEALTH_PORT": "9010"}
    assert (second.probe.port, second.probe.path) == (9010, "/started")
    assert plan.first_port == 9004
    assert plan.part.summary == "0 to 4 workers, one per 5 messages"


CATALOGUE = """
[office]
implementation = "models.office"
description = "In office hours."
media_types = ["text/plain"]
warm = "Mon-Fri 08:00-18:00 Europe/Berlin"
warm_workers = 6

[always]
implementation = "models.always"
description = "At all times."
media_types = ["text/plain"]
min_workers = 2
"""


@pytest.mark.parametrize(
    ("names", "minimum", "warm", "summary"),
    [
        ("", 2, [4], "2 to 4 workers, one per 5 messages"),
        ("office", 0, [4], "0 to 4 workers, one per 5 messages"),
        ("always", 2, [], "2 to 4 workers, one per 5 messages"),
    ],
)
def test_catalogue_sets_minimum_up_to_maximum(
    names: str, minimum: int, warm: list[int], summary: str, tmp_path: Path
) -> None:
    (tmp_path / "models.toml").write_text(CATALOGUE, encoding="utf-8")
    models = read_model_scaling(tmp_path / "models.toml", dict(os.environ))
    assert models["office"].periods[0].days == (0, 1, 2, 3, 4)
    scaling, worker = parse_scaling("0:4", 5, 1.0, 20.0), loosely_parts(SETTINGS)[-1]
    plan = plan_worker_pool(SETTINGS, scaling, models, worker, {"WORKER_MODELS": names})
    assert plan.scaling.min_replica_count == minimum
    assert [trigger.desired_replicas for trigger in plan.scaling.cron] == warm
    assert plan.part.summary == summary


def test_invalid_catalogue_states_reason(tmp_path: Path) -> None:
    text = CATALOGUE.replace("Europe/Berlin", "Europe/Berlim")
    (tmp_path / "models.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueInvalid, match=r"office\.warm: the time zone 'Europe/Berlim'"):
        read_model_scaling(tmp_path / "models.toml", dict(os.environ))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "4:0"], "the minimum must be from 0 to the maximum"),
        (["--scale", "many"], "expected MIN:MAX"),
        (["--scale", "0:4", "--scale-target", "0"], "--scale-target"),
        (["--scale", "0:4", "--without", "worker"], "--scale needs the worker"),
    ],
)
def test_invalid_option_exits_with_2(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["up", *options], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
