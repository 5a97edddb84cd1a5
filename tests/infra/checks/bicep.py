"""Check Bicep templates against the types of Azure's resources, without Azure.

The types are in `schemas/bicep-types.json`. The parser is pycep, which checkov uses. It has no
imports and no types of its own, so `az bicep build`, which CI on GitHub runs, finds more.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pycep import BicepParser
from pycep.transformer import BicepElement, BicepToJson

TYPES = Path(__file__).parent / "schemas" / "bicep-types.json"
REQUIRED, READ_ONLY = 1, 2
# Properties that Bicep adds to each resource and module.
META = {"parent", "scope", "dependsOn"}
LOOP_NAMES = ("item_name", "index_name", "input_element")
# Names that are not declared in a template.
BUILT_IN = {"subscription", "resourceGroup", "tenant", "deployer", "environment", "deployment"}

Node = dict[str, Any]


class Transformer(BicepToJson):  # type: ignore[misc]  # pycep is only in .venv-infra
    """Pycep's transformer, which keeps only the last of the resources inside a resource."""

    def object(self, args: list[tuple[str, Any]]) -> Node:
        """Return an object, without the quotes of its keys and with all resources in it."""
        value = {key.strip("'"): each for key, each in args}
        children = [each for key, each in args if key == "__child_resource__"]
        return value | {"__child_resource__": children} if children else value

    def process_child_resource(
        self, parent_resource_name: str, parent_type_api_pair: Any, config: Node
    ) -> None:
        """Add the resources inside a resource to the template: `payload__blobs`."""
        for child in unwrap(config)[0].pop("__child_resource__", ()):
            inner = child["__attrs__"]
            inner["type"] = f"{parent_type_api_pair['type']}/{inner['type']}"
            inner["api_version"] = parent_type_api_pair["api_version"]
            child["__name__"] = f"{parent_resource_name}__{child['__name__']}"
            self.child_resources.append({"resources": child})
            self.process_child_resource(child["__name__"], inner, inner["config"])


@cache
def load_types() -> tuple[dict[str, int], list[Node]]:
    """Return the positions of the resource types, and all type entries."""
    document = json.loads(TYPES.read_text(encoding="utf-8"))
    return document["resources"], document["entries"]


def resolve(reference: Node) -> Node:
    entry: Node = load_types()[1][int(reference["$ref"].removeprefix("#/"))]
    return entry


def simplify(text: str) -> str:
    """Rewrite a template so that pycep can parse it. Return the new text, with the same lines.

    Pycep does not parse imported types, types of arrays and maps, calls with one argument on each
    line, and functions that make objects. The new template describes the same resources with the
    same values, except environment variables.
    """
    text = re.sub(r"^import .*$|^@export\(\)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^type \w+ = \{ \*: string \}$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) Tags$", r"\1 object", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) Token$", r"\1 string", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) string\[\]", r"\1 array", text, flags=re.MULTILINE)
    text = re.sub(r"\btoObject\(.*\)$", "{}", text, flags=re.MULTILINE)
    text = re.sub(r"\bmap\(.*, each => \{.*\}\)$", "[]", text, flags=re.MULTILINE)
    return re.sub(
        r"\(\n((?:[^()\n]+\n)+)\s*\)",
        lambda call: f"({' '.join(line.strip() for line in call[1].splitlines())})",
        text,
    )


def choose(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def from_json(parameter: Node) -> Node:
    """Return a parameter of a JSON template in the form of pycep."""
    default = parameter.get("defaultValue")
    return {"type": parameter["type"].lower(), "default": default, "decorators": []}


@dataclass
class Template:
    path: Path
    parameters: Mapping[str, Node] = field(default_factory=dict)
    variables: Mapping[str, Node] = field(default_factory=dict)
    resources: Mapping[str, Node] = field(default_factory=dict)
    modules: Mapping[str, Node] = field(default_factory=dict)
    outputs: Mapping[str, Node] = field(default_factory=dict)

    @classmethod
    @cache
    def load(cls, path: Path) -> "Template":
        """Parse a Bicep or JSON template. Raises a LarkError if the syntax of Bicep is wrong."""
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            declared = json.loads(text)["parameters"]
            return cls(path, {name: from_json(each) for name, each in declared.items()})
        tree = BicepParser().lark_parser.parse(simplify(text))
        parsed = Transformer(add_line_numbers=False).transform(tree)
        kinds = ("parameters", "variables", "resources", "modules", "outputs")
        return cls(path, **{kind: parsed.get(kind, {}) for kind in kinds})

    @property
    def names(self) -> set[str]:
        """The names that an expression in this template may use."""
        declared = (self.parameters, self.variables, self.resources, self.modules)
        return BUILT_IN.union(*declared, (name.rpartition("__")[2] for name in self.resources))

    @property
    def kinds(self) -> set[str]:
        return {f"{each['type']}@{each['api_version']}" for each in self.resources.values()}

    def module(self, name: str) -> "Template":
        return self.load((self.path.parent / self.modules[name]["detail"]["path"]).resolve())


def check_template(path: Path) -> Iterator[str]:
    template = Template.load(path.resolve())
    for name, parameter in template.parameters.items():
        if parameter["default"] is not None:
            yield from check_declared(parameter, parameter["default"], name)
    for name, resource in template.resources.items():
        body, loop_names = unwrap(resource["config"])
        kind = f"{resource['type']}@{resource['api_version']}"
        position = load_types()[0].get(kind)
        if position is None:
            yield f"{name}: the type {kind} is unknown; update_types.py adds types"
        elif not resource["existing"]:
            body_type = resolve(load_types()[1][position]["body"])
            yield from check_value(body_type, body, name, top=True)
        yield from check_names(template, resource["config"], name, loop_names)
    for name, module in template.modules.items():
        body, loop_names = unwrap(module["config"])
        yield from check_parameters(template.module(name), body.get("params", {}), name)
        yield from check_names(template, module["config"], name, loop_names)
    for name, declared in (*template.variables.items(), *template.outputs.items()):
        yield from check_names(template, declared["value"], name, set())


def unwrap(config: Node) -> tuple[Node, set[str]]:
    """Return the body of a resource or module without `if` and `for`, and the loops' names."""
    names: set[str] = set()
    while "config" in config and set(config) <= {"loop_type", "condition", "config"}:
        detail = config.get("loop_type", {}).get("detail", {})
        names |= {str(detail[key]) for key in ("item_name", "index_name") if detail.get(key)}
        config = config["config"]
    return config, names


def check_parameters(module: Template, given: Node, place: str) -> Iterator[str]:
    """Yield the errors in the parameters that a module is given."""
    for name, value in given.items():
        if name in module.parameters:
            yield from check_declared(module.parameters[name], value, f"{place}.{name}")
        else:
            hint = choose(name, module.parameters)
            yield f"{place}: {module.path.name} has no parameter {name!r}{hint}"
    for name, parameter in module.parameters.items():
        if parameter["default"] is None and name not in given:
            yield f"{place}: {module.path.name} needs the parameter {name!r}"


def check_declared(parameter: Node, value: object, place: str) -> Iterator[str]:
    """Yield an error if a literal is not of a parameter's type, or not among its values."""
    kinds = {str: "string", bool: "bool", int: "int", list: "array"}
    kind = "object" if isinstance(value, dict) and not is_expression(value) else None
    kind = kind or kinds.get(type(value))
    declared = parameter["type"]
    if kind and declared in {"string", "bool", "int", "array", "object"} and kind != declared:
        yield f"{place}: {value!r} is not of the type {declared}"
    for decorator in parameter["decorators"]:
        allowed = decorator.get("argument") if decorator["type"] == "allowed" else None
        if allowed and kind in {"string", "int"} and value not in allowed:
            yield f"{place}: {value!r} is not one of {allowed}"


def operator_of(value: object) -> Node | None:
    """Return the operator of a parsed value with its operands, or None."""
    found = value.get("operator") if isinstance(value, dict) else None
    return found if isinstance(found, dict) and "operands" in found else None


def is_expression(value: object) -> bool:
    """Return whether a parsed value is a call, an operator, a loop or a reference."""
    if isinstance(value, BicepElement) or operator_of(value):
        return True
    return isinstance(value, dict) and any(
        isinstance(value.get(key), dict) and "type" in value[key]
        for key in ("function", "loop_type")
    )


def check_value(kind: Node, value: Any, place: str, *, top: bool = False) -> Iterator[str]:
    """Yield the errors in a value, compared with its type. Expressions count as any type."""
    operator = operator_of(value)
    if operator and operator["type"] == "conditional":
        for branch in ("true_value", "false_value"):
            yield from check_value(kind, operator["operands"][branch], place)
        return
    if isinstance(value, dict) and value.get("loop_type") and kind["$type"] == "ArrayType":
        yield from check_value(resolve(kind["itemType"]), value["config"], f"{place}[]")
        return
    if is_expression(value) or value is None:
        return
    match kind["$type"]:
        case "ObjectType":
            yield from check_object(kind, value, place, top=top)
        case "DiscriminatedObjectType" if isinstance(value, dict):
            chosen = kind["elements"].get(value.get(kind["discriminator"]))
            base = kind["baseProperties"]
            if chosen is not None:
                own = resolve(chosen)
                merged = {**own, "properties": {**base, **own.get("properties", {})}}
                yield from check_object(merged, value, place, top=top)
        case "ArrayType":
            if not isinstance(value, list):
                yield f"{place}: expected an array, found {value!r}"
                return
            for number, each in enumerate(value):
                yield from check_value(resolve(kind["itemType"]), each, f"{place}[{number}]")
        case _:
            yield from check_scalar(kind, value, place)


def check_object(kind: Node, value: object, place: str, *, top: bool) -> Iterator[str]:
    """Yield the errors in an object: unknown, missing and read-only properties, and below."""
    if not isinstance(value, dict):
        yield f"{place}: expected an object, found {value!r}"
        return
    properties = kind.get("properties", {})
    for name, each in value.items():
        if top and name in META:
            continue
        found = properties.get(name)
        if found and found["flags"] & READ_ONLY:
            yield f"{place}.{name}: the property is read-only"
        elif found:
            yield from check_value(resolve(found["type"]), each, f"{place}.{name}")
        elif "additionalProperties" in kind:
            yield from check_value(resolve(kind["additionalProperties"]), each, f"{place}.{name}")
        elif "${" not in name:
            yield f"{place}: {name!r} is not a property{choose(name, properties)}"
    for name, each in properties.items():
        if each["flags"] & REQUIRED and not each["flags"] & READ_ONLY and name not in value:
            yield f"{place}: the property {name!r} is missing"


def check_scalar(kind: Node, value: object, place: str) -> Iterator[str]:
    """Yield an error if a string, number or boolean does not fit its type."""
    options = [resolve(each) for each in kind["elements"]] if "elements" in kind else [kind]
    literals = [option["value"] for option in options if "value" in option]
    hint = choose(value, literals) if isinstance(value, str) else ""
    # A type may list values and allow others. A value very close to a listed one is misspelt.
    close = difflib.get_close_matches(str(value), literals, n=1, cutoff=0.85)
    is_misspelt = close and value not in literals
    if any(fits(option, value) for option in options) and not is_misspelt:
        return
    expected = f"one of {literals}" if literals else kind["$type"].removesuffix("Type").lower()
    yield f"{place}: expected {expected}, found {value!r}{hint}"


def fits(kind: Node, value: object) -> bool:
    """Return whether a literal fits a type that has no parts."""
    match kind["$type"]:
        case "StringLiteralType":
            return value == kind["value"] or (isinstance(value, str) and "${" in value)
        case "StringType":
            return isinstance(value, str) and ("${" in value or fits_string(kind, value))
        case "IntegerType":
            low, high = kind.get("minValue", value), kind.get("maxValue", value)
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        case "BooleanType":
            return isinstance(value, bool)
        case _:
            return True


def fits_string(kind: Node, value: str) -> bool:
    """Return whether a string has the length and the form that its type demands."""
    shortest, longest = kind.get("minLength", 0), kind.get("maxLength", len(value))
    return shortest <= len(value) <= longest and bool(re.search(kind.get("pattern", ""), value))


def check_names(template: Template, value: Any, place: str, local: set[str]) -> Iterator[str]:
    """Yield each name in an expression that is not declared, or has no such member."""
    if isinstance(value, BicepElement):
        yield from check_name(template, str(value), place, local)
    elif isinstance(value, str):
        for name in re.findall(r"\$\{(\w+)(?=[}.\[])", value):
            yield from check_name(template, name, place, local)
    elif isinstance(value, list):
        for each in value:
            yield from check_names(template, each, place, local)
    elif operator := operator_of(value):
        operands = operator["operands"]
        if operator["type"] == "property_accessor":
            yield from check_member(template, split_path(value), place)
            yield from check_names(template, operands["operand_1"], place, local)
        else:
            yield from check_names(template, list(operands.values()), place, local)
    elif isinstance(value, dict):
        # A loop declares its names beside its body, a lambda beside its expression.
        scope = (value.get("loop_type") or {}).get("detail", value)
        declared = {str(scope[name]) for name in LOOP_NAMES if scope.get(name)}
        for each in value.values():
            yield from check_names(template, each, place, local | declared)


def check_name(template: Template, name: str, place: str, local: set[str]) -> Iterator[str]:
    """Yield an error if a name is not declared."""
    root = re.split(r"[.\[(!?]", name)[0]
    if re.fullmatch(r"[A-Za-z_]\w*", root) and root not in template.names | local:
        yield f"{place}: the name {root!r} is not declared{choose(root, template.names)}"


def split_path(value: object) -> list[str]:
    """Return the names of `storage.outputs.id`, or no name for another expression."""
    operator = operator_of(value)
    if operator and operator["type"] == "property_accessor":
        owner, member = operator["operands"]["operand_1"], operator["operands"]["operand_2"]
        return split_path(owner) + split_path(member)
    return [str(value)] if isinstance(value, str) else []


def check_member(template: Template, path: list[str], place: str) -> Iterator[str]:
    """Yield an error if a module has no such output, or a resource no such property."""
    match path:
        case [root, "outputs", member, *_] if root in template.modules:
            known: Iterable[str] = template.module(root).outputs
        case [root, "properties", member, *_] if root in template.resources:
            resource = template.resources[root]
            position = load_types()[0][f"{resource['type']}@{resource['api_version']}"]
            body = resolve(load_types()[1][position]["body"])
            properties = resolve(body["properties"]["properties"]["type"])
            known = {**properties.get("baseProperties", {}), **properties.get("properties", {})}
        case _:
            return
    if known and member not in known:
        yield f"{place}: {root}.{path[1]} has no member {member!r}{choose(member, known)}"
