"""A route class that calls an endpoint without FastAPI's validation of parameters."""

from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

_TEXT_TYPES = (str, str | None)


class TextRoute(APIRoute):
    """A route whose parameters in the path and the query are texts.

    Texts need no conversion, so the endpoint is called directly. This takes half of the processor
    time that FastAPI needs to solve the dependencies of the endpoint. The OpenAPI document is the
    same. An endpoint with other parameters is called by FastAPI.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the route as APIRoute does, and find out whether all parameters are texts."""
        super().__init__(*arguments, **options)
        dependant = self.dependant
        self._queries = {field.alias: field.name for field in dependant.query_params}
        self._is_direct = dependant.request_param_name == "request" and not any(
            (
                dependant.dependencies,
                dependant.body_params,
                dependant.header_params,
                dependant.cookie_params,
                any(
                    field.field_info.annotation not in _TEXT_TYPES
                    for field in (*dependant.path_params, *dependant.query_params)
                ),
            )
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint, and send its response."""
        if not self._is_direct or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        query = request.query_params
        arguments = {name: query[alias] for alias, name in self._queries.items() if alias in query}
        response = await self.endpoint(request=request, **scope["path_params"], **arguments)
        await response(scope, receive, send)
