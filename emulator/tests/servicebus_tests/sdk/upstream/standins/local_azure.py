"""A pytest plugin that runs the tests of azure-servicebus without Azure's management SDKs.

These tests create their resources with the management SDKs, which the plugin replaces.
The plugin creates queues and shared access policies through the management port of the emulator.
It does not create topics, so tests that need topics are skipped.
"""

import itertools
import json
import os
import sys
from http.client import HTTPConnection
from types import ModuleType, SimpleNamespace
from typing import Any

import certifi
import pytest
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus.management import AuthorizationRule, ServiceBusAdministrationClient

# The client trusts the certificates at certifi.where(); the tests do not set another file.
certifi.where = lambda: os.environ["EMULATOR_CERTIFICATE"]

_API_VERSION = "api-version=2021-05"
_ENTRY = """<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">
<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">
{properties}</QueueDescription></content></entry>"""
_serial = itertools.count()
# The primary key of each created policy, by the names of the policy and of its queue, if any.
_rule_keys: dict[tuple[str, str | None], str] = {}


class _Model:
    """Replaces each model class of Azure's management SDK, for example a queue's properties.

    An object stores the arguments of its constructor as attributes.
    """

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class _Done:
    """A long-running operation that has already finished."""

    def __init__(self, result: Any = None) -> None:
        self._result = result

    def result(self) -> Any:
        return self._result

    def done(self) -> bool:
        return True

    def wait(self, *_: Any) -> None:
        """Return at once, because the operation has finished."""


class _Resource(SimpleNamespace):
    def __init__(self, name: str) -> None:
        super().__init__(name=name, id=f"{name}-{next(_serial)}")


class ManagementClient:
    """A replacement for ResourceManagementClient and ServiceBusManagementClient.

    It creates and deletes queues and shared access policies of the emulator. Resource groups and
    namespaces are only names.
    """

    def __init__(self) -> None:
        self.resource_groups = SimpleNamespace(
            create_or_update=lambda name, _: _Resource(name),
            begin_delete=lambda _, **__: _Done(),
        )
        self.namespaces = SimpleNamespace(
            begin_create_or_update=lambda *_: _Done(_Resource("localhost")),
            delete=_nothing,
            list_keys=lambda _group, _namespace, rule: _keys(rule),
            create_or_update_authorization_rule=_create_rule,
            delete_authorization_rule=_delete_rule,
        )
        self.queues = SimpleNamespace(
            create_or_update=_create_queue,
            delete=lambda _group, _namespace, name: _request("DELETE", name),
            list_keys=lambda _group, _namespace, name, rule: _keys(rule, name),
            create_or_update_authorization_rule=_create_queue_rule,
            delete_authorization_rule=_nothing,  # the rule is deleted with the queue
        )
        topics = SimpleNamespace(create_or_update=_need_topics, delete=_nothing)
        self.topics = self.subscriptions = topics


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _need_topics(*_: Any, **__: Any) -> None:
    pytest.skip("the stand-in for the management SDK creates no topics")


def _keys(name: str, entity_path: str | None = None) -> SimpleNamespace:
    key = _rule_keys.get((name, entity_path)) or os.environ["EMULATOR_KEY"]
    connection_string = f"Endpoint=sb://localhost/;SharedAccessKeyName={name};SharedAccessKey={key}"
    if entity_path:
        connection_string += f";EntityPath={entity_path}"
    return SimpleNamespace(
        primary_connection_string=connection_string, key_name=name, primary_key=key
    )


def _create_rule(_group: str, _namespace: str, name: str, rule: Any) -> _Resource:
    path = f"$emulator/authorizationRules/{name}"
    answer = _request("PUT", path, json.dumps({"rights": list(rule.rights)}))
    _rule_keys[name, None] = json.loads(answer)["primaryKey"]
    return _Resource(name)


def _delete_rule(_group: str, _namespace: str, name: str) -> None:
    _request("DELETE", f"$emulator/authorizationRules/{name}")


def _create_queue_rule(_group: str, _namespace: str, queue: str, name: str, rule: Any) -> _Resource:
    name_and_key = f"SharedAccessKeyName={os.environ['EMULATOR_KEY_NAME']};"
    name_and_key += f"SharedAccessKey={os.environ['EMULATOR_KEY']}"
    with ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://localhost:{os.environ['EMULATOR_ADMIN_PORT']};{name_and_key}",
        transport=_PlainTransport(),
    ) as client:
        description = client.get_queue(queue)
        added = AuthorizationRule(key_name=name, rights=list(rule.rights))
        description.authorization_rules = [*(description.authorization_rules or ()), added]
        client.update_queue(description)
        stored = client.get_queue(queue).authorization_rules or ()
    (key,) = [each.primary_key for each in stored if each.key_name == name]
    _rule_keys[name, queue] = str(key)
    return _Resource(name)


class _PlainTransport(RequestsTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """A transport that sends requests over http although their URLs have the scheme https."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def _create_queue(_group: str, _namespace: str, name: str, queue: Any) -> _Resource:
    properties = {
        "LockDuration": queue.lock_duration,
        "RequiresSession": str(bool(queue.requires_session)).lower(),
        "RequiresDuplicateDetection": str(queue.requires_duplicate_detection).lower(),
        "DeadLetteringOnMessageExpiration": str(queue.dead_lettering_on_message_expiration).lower(),
    }
    elements = "".join(f"<{key}>{value}</{key}>" for key, value in properties.items())
    _request("PUT", name, _ENTRY.format(properties=elements))
    return _Resource(name)


def _request(method: str, name: str, body: str = "") -> bytes:
    connection = HTTPConnection("127.0.0.1", int(os.environ["EMULATOR_ADMIN_PORT"]), timeout=30)
    try:
        connection.request(method, f"/{name}?{_API_VERSION}", body)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status >= 300:
        raise RuntimeError(f"{method} {name}: {response.status} {text!r}")
    return text


def _provide(name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


_provide("azure.mgmt", __path__=[])
_provide("azure.mgmt.resource", ResourceManagementClient=ManagementClient)
_provide("azure.mgmt.servicebus", ServiceBusManagementClient=ManagementClient, __path__=[])
_provide(
    "azure.mgmt.servicebus.models",
    SBQueue=_Model,
    SBSubscription=_Model,
    SBAuthorizationRule=_Model,
    AccessRights=SimpleNamespace(manage="Manage", send="Send", listen="Listen"),
)


@pytest.fixture(scope="session")
def test_proxy() -> None:
    """Do nothing, because live tests are not recorded."""
