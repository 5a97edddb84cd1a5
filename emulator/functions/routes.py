"""Route templates of HTTP triggers. They follow the rules of ASP.NET. Examples:

products/{category:alpha}/{id:int?}      literals, constraints, optional parameters
products/{category=all}                  default values
files/{name}.{ext}                       several parameters in one segment
{*path}                                  the remaining path, including slashes

As in Azure's host, the templates are tried in the order of the functions' names, and the function
of the first template that matches serves the request. No template takes precedence over another.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote
from uuid import UUID

_PARAMETER = re.compile(r"\{(\*{0,2})([A-Za-z_]\w*)((?:[:=](?:[^{}]|\{\{?[^{}]*\}\}?)*|\?)?)\}")
_CONSTRAINT = re.compile(r"(\w+)(?:\((.*)\))?", re.DOTALL)
_SLASH = re.compile("%(2[Ff])")
_INT_BITS = 31
_LONG_BITS = 63


class RouteError(ValueError):
    """A route template is invalid in ASP.NET, or this host does not support it."""


Check = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Route:
    """A compiled route template. The constructor raises RouteError if the template is invalid.

    If `methods` is empty, the route serves every HTTP method.
    """

    template: str
    function: str
    methods: frozenset[str] = frozenset()
    _pattern: re.Pattern[str] = field(init=False, repr=False)
    _checks: tuple[tuple[str, tuple[Check, ...]], ...] = field(init=False, repr=False)
    _defaults: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        compiled = _Compiler(self.template)
        object.__setattr__(self, "_pattern", compiled.pattern())
        object.__setattr__(self, "_checks", tuple(compiled.checks.items()))
        object.__setattr__(self, "_defaults", compiled.defaults)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the route values of a path, or None if the path does not match the template."""
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        values = {name: value for name, value in found.groupdict().items() if value}
        for name, checks in self._checks:
            if name in values and not all(check(values[name]) for check in checks):
                return None
        return {**self._defaults, **values} if self._defaults else values


class RouteTable:
    """All routes of an app, sorted by the names of their functions, ignoring case."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: list[Route] = []
        self.extend(routes)

    def extend(self, routes: Iterable[Route]) -> None:
        """Add routes, and sort all routes by the names of their functions."""
        self.routes = sorted([*self.routes, *routes], key=lambda route: route.function.upper())

    def find(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        """Return the name of the function that serves a path as the client sent it, and the values.

        Return None if no route serves the path and the method. As in Azure, that means status 404.
        """
        relative = decode_path(path)
        if relative is None:
            return None
        for route in self.routes:
            if route.methods and method not in route.methods:
                continue
            values = route.match(relative)
            if values is not None:
                return route.function, values
        return None


def decode_path(path: str) -> str | None:
    """Return a path in the form that `Route.match` expects, without slashes at its ends.

    `.` and `..` are resolved, and all but `%2F` is decoded. Return None if a segment is empty.
    """
    segments: list[str] = []
    for segment in path.removeprefix("/").removesuffix("/").split("/"):
        if segment == "..":
            segments[-1:] = []
        elif segment != ".":
            segments.append(segment)
    if "" in segments and segments != [""]:
        return None
    return unquote(_SLASH.sub(r"%25\1", "/".join(segments)))


class _Compiler:
    """Compiles a route template to a regular expression, constraints and default values."""

    def __init__(self, template: str) -> None:
        self.checks: dict[str, tuple[Check, ...]] = {}
        self.defaults: dict[str, str] = {}
        self._template = template
        self._names: set[str] = set()

    def pattern(self) -> re.Pattern[str]:
        text = ""
        for position, segment in enumerate(_segments(self._template)):
            separator = "/" if position else ""
            text += self._segment(segment, separator)
        return re.compile(text, re.IGNORECASE | re.DOTALL)

    def _segment(self, segment: str, separator: str) -> str:
        whole = _PARAMETER.fullmatch(segment)
        if whole is not None:
            return self._whole_parameter(whole, separator)
        text, end = "", 0
        for match in _PARAMETER.finditer(segment):
            text += self._literal(segment[end : match.start()])
            if match[1]:
                raise RouteError(
                    f"'{self._template}': a catch-all parameter must be the only content of its "
                    "segment"
                )
            name, _optional = self._declare(match)
            # A greedy parameter: the text is split at the last separator.
            text += f"(?P<{name}>[^/]+)"
            end = match.end()
        text += self._literal(segment[end:])
        return separator + text

    def _whole_parameter(self, match: re.Match[str], separator: str) -> str:
        name, optional = self._declare(match)
        if match[1]:
            return f"(?:{separator}(?P<{name}>.*))?" if separator else f"(?P<{name}>.*)"
        if optional:
            return f"(?:{separator}(?P<{name}>[^/]+))?"
        return f"{separator}(?P<{name}>[^/]+)"

    def _declare(self, match: re.Match[str]) -> tuple[str, bool]:
        """Store a parameter's constraints and default; return its name, and if it is optional."""
        name, rest = match[2], match[3]
        if name in self._names:
            raise RouteError(f"'{self._template}': the parameter '{name}' appears twice")
        self._names.add(name)
        optional = rest.endswith("?")
        if optional:
            rest = rest[:-1]
        rest, _, default = rest.partition("=")
        if default:
            self.defaults[name] = default
        texts = _split_constraints(rest)
        self.checks[name] = tuple(_constraint(self._template, text) for text in texts)
        return name, optional or bool(default)

    def _literal(self, text: str) -> str:
        if "{" in text or "}" in text:
            raise RouteError(
                f"'{self._template}' is not a valid route template: "
                "each { and } must enclose a parameter such as {name}"
            )
        return re.escape(text)


def _segments(template: str) -> list[str]:
    """Split a template at slashes outside braces; regex constraints have others."""
    stripped = template.strip("/")
    if not stripped:
        return []
    segments, depth, start = [], 0, 0
    for position, character in enumerate(stripped):
        depth += (character == "{") - (character == "}")
        if character == "/" and depth == 0:
            segments.append(stripped[start:position])
            start = position + 1
    segments.append(stripped[start:])
    if not all(segments):
        raise RouteError(f"'{template}': a segment of a route template must not be empty")
    return segments


def _split_constraints(text: str) -> list[str]:
    """Split a text like `:int:range(1,5)` at the colons that are outside parentheses."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == ":" and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part for part in [*parts, current] if part]


def _constraint(template: str, text: str) -> Check:
    match = _CONSTRAINT.fullmatch(text)
    name, argument = (match[1].lower(), match[2] or "") if match else (text, "")
    if name in _PLAIN:
        return _PLAIN[name]
    try:
        return _PARAMETRISED[name](*_arguments(name, argument))
    except (KeyError, ValueError, TypeError, re.error) as error:
        raise RouteError(f"'{template}': the constraint '{text}' is unknown or invalid") from error


def _arguments(name: str, argument: str) -> list[str]:
    return [argument] if name == "regex" else [part.strip() for part in argument.split(",")]


def _parses(parse: Callable[[str], object]) -> Check:
    def check(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return check


def _whole_number(value: str, bits: int) -> bool:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
        return False
    return -(1 << bits) <= int(value) < (1 << bits)


def _length(low: str, high: str | None = None) -> Check:
    least, most = int(low), int(low if high is None else high)
    return lambda value: least <= len(value) <= most


def _range(low: str, high: str) -> Check:
    least, most = int(low), int(high)
    return lambda value: _whole_number(value, _LONG_BITS) and least <= int(value) <= most


def _regex(pattern: str) -> Check:
    # ASP.NET requires each brace in a regular expression to be doubled.
    single = pattern.replace("{{", "{").replace("}}", "}")
    compiled = re.compile(single, re.IGNORECASE)
    return lambda value: compiled.search(value) is not None


_PLAIN: dict[str, Check] = {
    "alpha": lambda value: re.fullmatch("[A-Za-z]*", value) is not None,
    "bool": lambda value: value.lower() in ("true", "false"),
    "datetime": _parses(datetime.fromisoformat),
    "decimal": _parses(float),
    "double": _parses(float),
    "float": _parses(float),
    "guid": _parses(UUID),
    "int": lambda value: _whole_number(value, _INT_BITS),
    "long": lambda value: _whole_number(value, _LONG_BITS),
    "required": bool,
}
_PARAMETRISED: dict[str, Callable[..., Check]] = {
    "length": _length,
    "max": lambda most: _range(str(-(1 << _LONG_BITS)), most),
    "maxlength": lambda most: _length("0", most),
    "min": lambda least: _range(least, str((1 << _LONG_BITS) - 1)),
    "minlength": lambda least: _length(least, str(1 << 31)),
    "range": _range,
    "regex": _regex,
}
