"""Check azure.yaml against the schema of the Azure Developer CLI."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT201909

SCHEMA = Path(__file__).parent / "schemas" / "azure.yaml.schema.json"


def accept_anything(_uri: str) -> Resource[Any]:
    """Return an empty schema in place of those of azd's extensions, which are elsewhere."""
    return Resource.from_contents({}, default_specification=DRAFT201909)


def check_azure_yaml(path: Path) -> Iterator[str]:
    """Yield each error in azure.yaml: of its schema, its hosts and its folders."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    registry: Registry[Any] = Registry(retrieve=accept_anything)  # type: ignore[call-arg]  # by attrs
    validator = jsonschema.Draft201909Validator(schema, registry=registry)
    for error in validator.iter_errors(document):
        yield f"{error.json_path}: {error.message}"
    service_schema = schema["properties"]["services"]["additionalProperties"]["properties"]
    for name, service in document.get("services", {}).items():
        # The schema lists the hosts as examples only.
        if service.get("host") not in service_schema["host"]["examples"]:
            yield f"services.{name}.host: {service.get('host')!r} is not a host of azd"
        if not (path.parent / service["project"]).is_dir():
            yield f"services.{name}.project: the folder {service['project']!r} does not exist"
    if not (path.parent / document.get("infra", {}).get("path", "infra")).is_dir():
        yield "infra.path: the folder does not exist"
