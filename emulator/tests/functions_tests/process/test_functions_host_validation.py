"""Test that the emulator and the Azure Functions Python worker refuse the same invalid functions.

The error messages must be the same, too. The library of this worker, azure-functions-runtime, needs
Python 3.13. If the library is not installed, these tests are skipped, and only
`test_functions_host_start` checks the messages.
"""

import itertools
import types
from collections.abc import Callable
from typing import Any, Dict, List, Optional, Union  # noqa: UP035 - these are tested

import azure.durable_functions as df
import azure.functions as func
import pytest

from emulator.functions.app.indexing import FunctionLoadError, check_signature

functions = pytest.importorskip("azure_functions_runtime.functions")
meta = pytest.importorskip("azure_functions_runtime.bindings.meta")

# The numbers that azure.functions' bindings use for directions and data types.
PROTOS = types.SimpleNamespace(
    BindingInfo=types.SimpleNamespace(out=1, inout=2, undefined=0, **{"in": 0})
)
PARAMETER_ANNOTATIONS: list[Any] = [
    None,
    str,
    bytes,
    int,
    dict,
    object,
    "func.HttpRequest",
    func.HttpRequest,
    func.ServiceBusMessage,
    func.TimerRequest,
    func.Out[str],
    func.Out,
    Dict[str, Any],  # noqa: UP006 - under test
    dict[str, Any],
    List[func.ServiceBusMessage],  # noqa: UP006 - under test
    list[func.ServiceBusMessage],
    Optional[dict],  # noqa: UP045 - under test
    str | None,
    Union[str, bytes],  # noqa: UP007 - under test
    Callable[[], None],
    Any,
]
RETURN_ANNOTATIONS: list[Any] = [
    None,
    str,
    bytes,
    dict,
    func.HttpResponse,
    Optional[str],  # noqa: UP045 - under test
    func.Out[str],
]


def http(app: df.DFApp, call: Any) -> None:
    app.route(route="x")(call)


def activity(app: df.DFApp, call: Any) -> None:
    app.activity_trigger(input_name="given")(call)


def timer(app: df.DFApp, call: Any) -> None:
    app.timer_trigger(arg_name="given", schedule="0 0 * * * *")(call)


def queue(app: df.DFApp, call: Any) -> None:
    app.service_bus_queue_trigger(arg_name="given", queue_name="q", connection="c")(call)


def outcome(check: Callable[[], Any]) -> str:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - the worker raises several kinds
        return f"{type(error).__name__}: {error}"
    return "loads"


def both(register: Callable[[df.DFApp, Any], None], call: Any) -> tuple[str, str]:
    """Validate a function with our host and Azure's Python worker.

    Each result is "loads" or the text of the error.
    """
    app = df.DFApp()
    register(app, call)
    (indexed,) = app.get_functions()
    meta.load_binding_registry()
    theirs = outcome(lambda: functions.Registry().add_indexed_function(indexed, PROTOS))
    ours = outcome(
        lambda: check_signature(
            indexed.get_function_name(), indexed.get_user_function(), indexed.get_bindings()
        )
    )
    return ours, theirs


@pytest.mark.parametrize("register", [http, activity, timer, queue])
@pytest.mark.parametrize(
    ("parameter", "returned"),
    list(itertools.product(PARAMETER_ANNOTATIONS, RETURN_ANNOTATIONS)),
)
def test_annotations_are_judged_as_in_azure(
    register: Callable[[df.DFApp, Any], None], parameter: Any, returned: Any
) -> None:
    def call(given: Any) -> Any:
        return given

    def http_call(req: Any) -> Any:
        return req

    chosen = http_call if register is http else call
    name = "req" if register is http else "given"
    chosen.__annotations__ = {}
    if parameter is not None:
        chosen.__annotations__[name] = parameter
    if returned is not None:
        chosen.__annotations__["return"] = returned
    ours, theirs = both(register, chosen)
    assert ours == theirs


def no_parameter() -> None: ...
def two_parameters(given: Any, other: Any) -> None: ...
def three_parameters(given: Any, other: Any, third: Any) -> None: ...
def with_context(given: Any, context: func.Context) -> None: ...
def with_bare_context(given: Any, context) -> None: ...  # type: ignore[no-untyped-def]
def with_wrong_context(given: Any, context: dict) -> None: ...  # type: ignore[type-arg]
def with_unknown_annotation(given: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "call",
    [
        no_parameter,
        two_parameters,
        with_context,
        with_bare_context,
        with_wrong_context,
        with_unknown_annotation,
    ],
)
@pytest.mark.parametrize("register", [activity, timer, queue])
def test_parameters_are_judged_as_in_azure(
    register: Callable[[df.DFApp, Any], None], call: Any
) -> None:
    ours, theirs = both(register, call)
    assert ours == theirs


def test_load_errors_have_azures_text() -> None:
    assert str(FunctionLoadError("f", "why")) == str(functions.FunctionLoadError("f", "why"))
