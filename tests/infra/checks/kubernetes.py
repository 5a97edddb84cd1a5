"""Check manifests against the schemas of Kubernetes and KEDA, without a cluster."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.36"
SCHEMAS = Path(__file__).parent / "schemas"
# The metadata of the triggers that infra/ uses, as required and optional names. From KEDA's
# schema/generated/scalers-schema.json; an identity comes from the trigger's authenticationRef.
TRIGGERS = {
    "azure-servicebus": (
        {"queueName", "namespace"},
        {"messageCount", "activationMessageCount", "useRegex", "operation", "cloud"},
    ),
    "cron": ({"timezone", "start", "end", "desiredReplicas"}, set[str]()),
}

Document = dict[str, Any]


def make_strict(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, which an API server would drop."""
    if isinstance(schema, list):
        return [make_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: make_strict(each) for key, each in schema.items()}
    is_open = {"x-kubernetes-preserve-unknown-fields", "additionalProperties"} & set(schema)
    if schema.get("type") == "object" and "properties" in schema and not is_open:
        strict["additionalProperties"] = False
    return strict


@cache
def load_keda() -> dict[str, Document]:
    """Return a strict schema for each kind of KEDA that infra/ uses."""
    found = {}
    for path in SCHEMAS.glob("keda-*.yaml"):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        found[spec["names"]["kind"]] = make_strict(schema)
    return found


def check_manifests(text: str) -> Iterator[str]:
    """Yield each error in a stream of manifests, as `kubectl kustomize` prints them."""
    documents = [each for each in yaml.safe_load_all(text) if each]
    if not documents:
        yield "there are no manifests"
    for document in documents:
        place = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        for problem in check_manifest(document):
            yield f"{place}: {problem}"


def check_manifest(document: Document) -> Iterator[str]:
    """Yield each error in one manifest."""
    if document["apiVersion"].startswith("keda.sh/"):
        schema = load_keda().get(document["kind"])
        if schema is None:
            yield f"the kind has no schema in {SCHEMAS.name}"
            return
        for error in jsonschema.Draft7Validator(schema).iter_errors(document):
            yield f"{error.json_path}: {error.message}"
        if document["kind"] == "ScaledObject":
            yield from check_scaled_object(document["spec"])
        return
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{document['apiVersion']} is not in Kubernetes {VERSION}"
    except kubernetes_validate.ValidationError as error:
        yield f"{error.json_path}: {error.message}"


def check_scaled_object(spec: Document) -> Iterator[str]:
    """Yield what KEDA's webhook and scalers refuse, beyond the schema."""
    low, high = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    if low > high:
        yield f"minReplicaCount {low} is more than maxReplicaCount {high}"
    for trigger in spec.get("triggers", ()):
        required, optional = TRIGGERS.get(trigger["type"], (set[str](), set[str]()))
        given = set(trigger["metadata"])
        if not required:
            yield f"the trigger type {trigger['type']!r} is not in TRIGGERS"
        elif missing := required - given:
            yield f"the trigger {trigger['type']} needs {sorted(missing)}"
        elif unknown := given - required - optional:
            yield f"the trigger {trigger['type']} has no metadata {sorted(unknown)}"
        for name in ("messageCount", "activationMessageCount", "desiredReplicas"):
            value = trigger["metadata"].get(name, "0")
            if not str(value).isdigit():
                yield f"{name} must be a whole number: found {json.dumps(value)}"
