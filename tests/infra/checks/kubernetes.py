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
    "cpu": ({"value"}, {"containerName"}),
    "cron": ({"timezone", "start", "end", "desiredReplicas"}, set[str]()),
    "mssql": ({"query", "targetValue"}, {"activationTargetValue"}),
    "rabbitmq": (
        {"queueName", "mode", "value", "host"},
        {"protocol", "vhostName", "activationValue", "excludeUnacknowledged", "timeout"},
    ),
}
# The fields of `spec` of the kinds of RabbitMQ's operators that infra/ uses, as required and
# optional names. From the CRDs of cluster-operator 2 and messaging-topology-operator 1.
RABBITMQ = {
    "RabbitmqCluster": (
        {"replicas", "image", "persistence", "rabbitmq"},
        {"resources", "affinity", "override", "terminationGracePeriodSeconds", "tls", "service"},
    ),
    "Vhost": ({"name", "rabbitmqClusterReference"}, {"defaultQueueType", "tags"}),
    "User": ({"rabbitmqClusterReference"}, {"importCredentialsSecret", "tags"}),
    "Permission": (
        {"vhost", "permissions", "rabbitmqClusterReference"},
        {"user", "userReference"},
    ),
}

WHOLE_NUMBERS = (
    *("messageCount", "activationMessageCount", "desiredReplicas"),
    *("value", "activationValue", "targetValue"),
)

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
    if document["apiVersion"] == "rabbitmq.com/v1beta1":
        yield from check_rabbitmq(document)
        return
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{document['apiVersion']} is not in Kubernetes {VERSION}"
    except kubernetes_validate.ValidationError as error:
        yield f"{error.json_path}: {error.message}"


def check_rabbitmq(document: Document) -> Iterator[str]:
    """Yield the missing and the unknown fields of an object for RabbitMQ's operators."""
    if (known := RABBITMQ.get(document["kind"])) is None:
        yield "the kind is not in RABBITMQ"
        return
    required, optional = known
    given = set(document["spec"])
    if missing := required - given:
        yield f"the spec needs {sorted(missing)}"
    if unknown := given - required - optional:
        yield f"the spec has no {sorted(unknown)}"


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
        for name in WHOLE_NUMBERS:
            value = trigger["metadata"].get(name, "0")
            if not str(value).isdigit():
                yield f"{name} must be a whole number: found {json.dumps(value)}"
