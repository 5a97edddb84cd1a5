"""Verify the tokens that a peer sends to the node `$cbs` (claims-based security).

Before a peer attaches a link to a queue, the peer sends a token for the queue in a `put-token`
request ("AMQP claims-based security", learn.microsoft.com).
"""

import logging
from collections import OrderedDict
from urllib.parse import urlsplit

from emulator.clock import UtcClock
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.errors import LinkFault, MessageFault
from emulator.servicebus.amqp.types import Int
from emulator.servicebus.broker.authorization import AccessRight, sorted_rights
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from emulator.servicebus.sas import SasError, verify_sas
from emulator.servicebus.tracking import add_tracking, entity_url

_SAS_PREFIX = "SharedAccessSignature "
_MAX_TOKENS = 100
_MAX_TOKEN_LENGTH = 4096

logger = logging.getLogger(__name__)


class CbsTokens:
    """The tokens that one peer sent on its connection.

    A token is verified when the peer sends it, and again when the peer attaches a link.
    """

    def __init__(self, policies: AccessPolicies, clock: UtcClock) -> None:
        self._policies = policies
        self._clock = clock
        self._tokens: OrderedDict[str, str] = OrderedDict()
        # The name of a policy and one of its keys, if the peer connected with SASL PLAIN.
        self._credentials: tuple[str, str] | None = None

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Return whether the peer may connect.

        PLAIN must name a policy of the namespace and one of its keys, and gives its rights while
        both exist. With other mechanisms, any peer connects and must send tokens.
        """
        if mechanism != "PLAIN":
            return True
        _, _, credentials = response.partition(b"\x00")
        name, _, key = credentials.partition(b"\x00")
        self._credentials = name.decode(errors="replace"), key.decode(errors="replace")
        return bool(self._find_key_rights())

    def _find_key_rights(self) -> frozenset[AccessRight]:
        """Return the rights of the key with which the peer connected, if any."""
        if self._credentials is None:
            return frozenset()
        return self._policies.rights_of(*self._credentials)

    async def handle(self, request: AmqpRequest) -> AmqpReply:
        """Store a `put-token` request's token if it is valid, or reply with an error."""
        try:
            self._put(request)
        except SasError as error:
            logger.info("a token that a peer sent to $cbs is refused: %s", error)
            return _reply(401, add_tracking(f"{error.code}: {error}", "$cbs"))
        except MessageFault as fault:
            return _reply(fault.status_code, fault.description)
        return _reply(202, "Accepted")

    def _put(self, request: AmqpRequest) -> None:
        if request.operation != "put-token":
            raise _refusal(
                400, f"the operation {request.operation[:100]!r} is unknown: expected put-token"
            )
        audience = request.properties.get("name")
        token = request.value
        if not isinstance(audience, str) or not isinstance(token, str):
            raise _refusal(400, "put-token: expected a name and a token, both as strings")
        if len(token) > _MAX_TOKEN_LENGTH or len(audience) > _MAX_TOKEN_LENGTH:
            raise _refusal(
                400, f"put-token: the name or token has more than {_MAX_TOKEN_LENGTH} characters"
            )
        # Do not check the token's type: azure-servicebus also sends signatures with the type "jwt".
        if not token.startswith(_SAS_PREFIX):
            raise SasError(
                "a token of Microsoft Entra ID is not supported: use a shared access signature"
            )
        try:
            path = urlsplit(audience).path
        except ValueError:
            raise _refusal(400, f"put-token: the name {audience[:300]!r} is not a URL") from None
        verify_sas(token, self._policies, path, self._clock.now())
        self._tokens[audience] = token
        self._tokens.move_to_end(audience)
        if len(self._tokens) > _MAX_TOKENS:
            self._tokens.popitem(last=False)

    def check_access(self, path: str, right: AccessRight) -> frozenset[AccessRight]:
        """Return the rights of the peer's key or of its newest token, if it gives `right`.

        Raises LinkFault if there is neither.
        """
        key_rights = self._find_key_rights()
        if right in key_rights:
            return key_rights
        reason = "the peer has not sent a token to $cbs"
        for token in reversed(self._tokens.values()):
            try:
                rights = verify_sas(token, self._policies, path, self._clock.now())
            except SasError as error:
                reason = str(error)
                continue
            if right in rights:
                return rights
            reason = f"the policy has the rights {', '.join(sorted_rights(rights))} only"
        logger.info("access to %r is refused: %s", path[:300], reason)
        raise LinkFault(UNAUTHORIZED, unauthorized_text(path, right))


UNAUTHORIZED = "amqp:unauthorized-access"


def unauthorized_text(path: str, right: AccessRight) -> str:
    """Return Azure's error text for a peer that does not have `right` for the queue at `path`."""
    return add_tracking(
        f"Unauthorized access. '{right}' claim(s) are required to perform this operation."
        f" Resource: '{entity_url(path)}'.",
        path,
    )


def _refusal(status_code: int, description: str) -> MessageFault:
    return MessageFault("amqp:invalid-field", description, status_code)


def _reply(status_code: int, description: str) -> AmqpReply:
    return AmqpReply({"status-code": Int(status_code), "status-description": description})
