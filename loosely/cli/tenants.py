"""``loosely tenants``: list tenants with their shares and usage, and change weights and limits."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from loosely.cli.connection import KeyOption, UrlOption, connect
from loosely.cli.errors import exit_on_error
from loosely.cli.jobs import LimitOption
from loosely.cli.output import JsonOption, echo_json, print_to, printable
from loosely.client.resources import Tenant
from loosely.client.tenants import ShareSettings

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    help="List tenants with their shares and usage, and change their weights and limits.",
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The tenant's name; * for all tenants without own settings; ~ if the gateway has no "
        "API keys.",
    ),
]
#: Removes a limit.
_NO_LIMIT: Final = "none"
_UNKNOWN: Final = "-"
_COLUMNS: Final = (
    *("tenant", "weight", "share", "waiting", "held", "running"),
    *("GPU s/hour", "GPU s/day", "limits"),
)
_LIMIT_TEXTS: Final = {
    "max_queued": "{:g} jobs",
    "max_running": "{:g} running",
    "gpu_seconds_a_day": "{:g} GPU s a day",
}


def _parse_limit(text: str) -> str:
    """Check a limit: a number from 0, or `none`. Raises BadParameter."""
    if text != _NO_LIMIT and not text.replace(".", "", 1).isdecimal():
        raise typer.BadParameter(f"expected a number or {_NO_LIMIT}, found {text!r}")
    return text


def _limit_option(name: str, what: str) -> Any:
    return typer.Option(
        name, metavar="N", parser=_parse_limit, help=f"{what}; {_NO_LIMIT} removes the limit."
    )


@app.callback()
def tenants(
    context: typer.Context,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tenants that have settings, or that had jobs in the last day."""
    if context.invoked_subcommand is not None:
        return
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        _show(*client.tenants.list(), as_json=as_json)


@app.command("show")
def show(
    name: NameArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one tenant: its settings, its jobs and its seconds on devices."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        _show(client.tenants.get(_named(name)), as_json=as_json)


@app.command("set")
def set_tenant(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    name: NameArgument,
    weight: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1000, help="How large the tenant's share is beside those of others."
        ),
    ] = None,
    max_queued: Annotated[
        str | None, _limit_option("--max-queued", "How many jobs may exist that have not ended")
    ] = None,
    max_running: Annotated[
        str | None,
        _limit_option("--max-running", "How many jobs may be in a model's queue or at its workers"),
    ] = None,
    gpu_seconds: Annotated[
        str | None,
        _limit_option("--gpu-seconds-a-day", "How many seconds on devices in a day of UTC"),
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's weight or limits. Those that are not given stay as they are.

    The change applies within a few seconds.
    """
    given: dict[str, Any] = {} if weight is None else {"weight": weight}
    for member, text, kind in (
        ("max_queued", max_queued, int),
        ("max_running", max_running, int),
        ("gpu_seconds_a_day", gpu_seconds, float),
    ):
        if text is not None:
            given[member] = None if text == _NO_LIMIT else kind(text)
    if not given:
        raise typer.BadParameter("expected at least one of the options", param_hint="--weight")
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        before = client.tenants.get(_named(name)).own_settings or {}
        settings: ShareSettings = {**before, **given}  # type: ignore[typeddict-item] # from JSON
        _show(client.tenants.set(_named(name), **settings), as_json=as_json)


@app.command("reset")
def reset(
    name: NameArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a tenant's own settings, so that those of the tenant * apply to it."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        client.tenants.reset(_named(name))
    if as_json:
        typer.echo(json.dumps({"reset": _named(name)}))
    else:
        typer.echo(f"reset: {printable(name)}")


@app.command("audit")
def audit(
    limit: LimitOption = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the last changes of weights and limits, newest first: who, when, before, after."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        changes = client.tenants.audit(limit)
    for change in changes:
        if as_json:
            echo_json(json.dumps(change.document, ensure_ascii=False).encode())
        else:
            what = f"{_settings_text(change.before)} -> {_settings_text(change.after)}"
            texts = (f"{change.at:%Y-%m-%d %H:%M:%S}Z", change.by or "(no key)")
            typer.echo("  ".join([*map(printable, (*texts, _shown(change.tenant))), what]))


def _named(name: str) -> str:
    return "" if name == "~" else name


def _shown(name: str) -> str:
    return printable(name) or "~"


def _show(*found: Tenant, as_json: bool) -> None:
    if as_json:
        for tenant in found:
            echo_json(json.dumps(tenant.document, ensure_ascii=False).encode())
        return
    first, *numbers, last = _COLUMNS
    columns = [Column(title, justify="right") for title in numbers]
    table = Table(first, *columns, last, box=None, pad_edge=False)
    for tenant in found:
        counts = (tenant.waiting, tenant.held, tenant.running)
        table.add_row(
            _shown(tenant.name),
            f"{tenant.settings.get('weight') or 1:g}",
            _UNKNOWN if tenant.share is None else f"{tenant.share:.1%}",
            *(_UNKNOWN if count is None else str(count) for count in counts),
            f"{tenant.gpu_seconds_hour:.1f}",
            f"{tenant.gpu_seconds_day:.1f}",
            _limits_text(tenant.settings),
        )
    print_to(Console(), table)


def _limits_text(settings: Mapping[str, Any]) -> str:
    texts = (
        form.format(settings[name])
        for name, form in _LIMIT_TEXTS.items()
        if isinstance(settings.get(name), int | float)
    )
    return ", ".join(texts)


def _settings_text(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return "no own settings"
    return ", ".join(
        f"{name.replace('_', ' ')} {_NO_LIMIT if value is None else value}"
        for name, value in sorted(settings.items())
    )
