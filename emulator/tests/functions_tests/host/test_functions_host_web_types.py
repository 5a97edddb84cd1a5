"""Tests of the annotations that a function may have if its app has a web extension."""

from typing import Any

import azure.functions as func
import pytest
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response

from emulator.functions.app.indexing import FunctionLoadError, check_signature
from emulator.functions.app.web_extension import WebExtension, find_extension


def extension(setting: str | None = "1") -> WebExtension | None:
    return find_extension({} if setting is None else {"PYTHON_ENABLE_INIT_INDEXING": setting})


def refusal(request_type: Any, response_type: Any) -> str | None:
    """Return why an HTTP function with these annotations is refused, or None if it is not."""

    def function(req: Any) -> Any: ...

    function.__annotations__ = {
        name: kind
        for name, kind in (("req", request_type), ("return", response_type))
        if kind is not None
    }
    app = func.FunctionApp()
    app.route(route="x")(function)
    bindings: Any = app.get_functions()[0].get_bindings()
    try:
        check_signature("x", function, bindings, extension())
    except FunctionLoadError as error:
        return str(error)
    return None


class Own(Response):  # type: ignore[misc] # the base has no annotations
    """A response type of the app's own."""


@pytest.mark.parametrize("kind", [None, Request])
def test_request_type_of_the_extension_is_accepted(kind: Any) -> None:
    assert refusal(kind, None) is None


@pytest.mark.parametrize("kind", [None, Response, JSONResponse, Own, str, dict, int, bool, list])
def test_response_type_of_the_extension_is_accepted(kind: Any) -> None:
    assert refusal(Request, kind) is None


def test_ordinary_types_are_refused() -> None:
    assert refusal(func.HttpRequest, None) == (
        'cannot load the x function: \'req\' binding type "httpTrigger" and dataType "None" in '
        "function.json do not match the corresponding function parameter's Python type annotation "
        '"HttpRequest"'
    )
    assert refusal(Request, func.HttpResponse) == (
        'cannot load the x function: Python return annotation "HttpResponse" does not match '
        'binding type "http"'
    )


@pytest.mark.parametrize(
    ("setting", "is_served"),
    [("1", True), ("TRUE", True), (" yes ", True), (None, False), ("", False), ("2", False)],
)
def test_setting_serves_the_extension(setting: str | None, is_served: bool) -> None:
    found = extension(setting)
    assert found is not None
    assert found.is_served == is_served


@pytest.mark.parametrize("setting", ["0", "False", "no"])
def test_false_setting_leaves_the_extension_out(setting: str) -> None:
    assert extension(setting) is None
