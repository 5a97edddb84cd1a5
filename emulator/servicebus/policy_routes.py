"""Let clients read and change the namespace's shared access policies over HTTP.

In Azure, clients use the resource type `authorizationRules` of Azure Resource Manager instead. The
emulator does not have Azure Resource Manager, but the request and response bodies here have the
same property names. The policies of a queue are part of the queue's description, as in Azure.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulator.servicebus.access import AccessPolicies, check_keys
from emulator.servicebus.broker.authorization import (
    AuthorizationRule,
    make_missing_keys,
    read_rights,
    sorted_rights,
)
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import ArgumentError, BrokerError
from emulator.servicebus.json_body import read_json

_Handler = Callable[[Request], Awaitable[Response]]
_FIELDS = "rights", "primaryKey", "secondaryKey"


def policy_routes(broker: Broker, policies: AccessPolicies, *, needs_token: bool) -> list[Route]:
    """Return the routes of policies; if `needs_token`, the public key is refused in them."""
    routes = _PolicyRoutes(broker, policies, needs_token=needs_token)
    path = "/$emulator/authorizationRules"
    return [
        Route(path, _answer_errors(routes.list)),
        Route(f"{path}/{{name}}", _answer_errors(routes.put), methods=["PUT"]),
        Route(f"{path}/{{name}}", _answer_errors(routes.delete), methods=["DELETE"]),
    ]


class _PolicyRoutes:
    def __init__(self, broker: Broker, policies: AccessPolicies, *, needs_token: bool) -> None:
        self._broker = broker
        self._needs_token = needs_token
        self._policies = policies

    async def list(self, _: Request) -> Response:
        """Respond with the names and rights of the namespace's policies, without their keys."""
        rules = sorted(self._policies.of_namespace.values(), key=lambda rule: rule.name)
        return JSONResponse(
            {"value": [{"name": r.name, "rights": sorted_rights(r.rights)} for r in rules]}
        )

    async def put(self, request: Request) -> Response:
        """Create or replace a policy; respond with it and its keys.

        Without keys in the body, it keeps its own, as in Azure Resource Manager, or gets new ones.
        """
        name = self._changeable(request)
        wanted = await read_json(request, _FIELDS)
        rights = wanted.get("rights")
        if not isinstance(rights, list):
            raise ArgumentError(f"rights: expected a list, found {rights!r:.100}")
        given = wanted.get("primaryKey"), wanted.get("secondaryKey")
        if not all(isinstance(key, str | None) for key in given):
            raise ArgumentError("primaryKey, secondaryKey: expected strings")
        stored = self._broker.authorization_rules.get(name)
        if given == (None, None) and stored is not None:
            keys = stored.primary_key, stored.secondary_key
        else:
            keys = make_missing_keys(*given)
        rule = AuthorizationRule(name, read_rights(rights), *keys)
        if self._needs_token:
            check_keys([rule])
        await self._broker.save_authorization_rule(rule)
        return JSONResponse(
            {
                "name": rule.name,
                "rights": sorted_rights(rule.rights),
                "primaryKey": rule.primary_key,
                "secondaryKey": rule.secondary_key,
            }
        )

    async def delete(self, request: Request) -> Response:
        """Delete a policy of the namespace."""
        await self._broker.delete_authorization_rule(self._changeable(request))
        return Response(status_code=200)

    def _changeable(self, request: Request) -> str:
        """Return the path's policy. Raises ArgumentError if it was set at the start."""
        name: str = request.path_params["name"]
        if name in self._policies.configured:
            raise ArgumentError(
                f"the policy {name!r} is set when the emulator starts: change it in Config.json, "
                "in the file of --policies or in the option --key, and start the emulator again"
            )
        return name


def _answer_errors(handler: _Handler) -> _Handler:
    """Return a handler that answers an error of the broker with the error's status and text."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except BrokerError as error:
            return JSONResponse({"error": str(error)}, error.status_code)

    return handle
