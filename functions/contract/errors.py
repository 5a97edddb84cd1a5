"""The errors of messages, payloads and the catalogue.

    ContractError
    ├── MalformedMessage      malformed-message     a field is missing or wrong, or not JSON
    ├── UnsupportedSchema     unsupported-schema    written by a newer version than this
    ├── MessageTooLarge       message-too-large     would not fit into a Service Bus message
    ├── PayloadCorrupt        payload-corrupt       size or digest differ from the payload reference
    ├── ForbiddenAddress      forbidden-address     a URL that must not be called
    ├── UnknownModel          unknown-model         not in the catalogue
    └── CatalogueError        bad-catalogue         models.toml is wrong

None is retryable: the same bytes would fail again.
"""

from typing import ClassVar


class ContractError(Exception):
    """Base of all; `code` is stable and is shown to callers."""

    code: ClassVar[str] = "contract-error"
    retryable: ClassVar[bool] = False


class MalformedMessage(ContractError):
    """The bytes are not a message. The text names the field and what was expected."""

    code = "malformed-message"


class UnsupportedSchema(ContractError):
    """The message has a schema version that this code cannot read."""

    code = "unsupported-schema"

    def __init__(self, found: object, supported: int) -> None:
        super().__init__(
            f"message has schema {found!r}, this version reads {supported}; "
            "upgrade the reader first"
        )
        self.found = found
        self.supported = supported


class MessageTooLarge(ContractError):
    """The encoded message is over the limit; its payload has to be a blob."""

    code = "message-too-large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"message of {size_bytes} bytes is over the limit of {limit_bytes}; "
            "send the payload as a reference to a blob"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class PayloadCorrupt(ContractError):
    """A blob does not match its payload reference."""

    code = "payload-corrupt"


class ForbiddenAddress(ContractError):
    """A URL must not be called. The text is for the caller that gave it."""

    code = "forbidden-address"


class UnknownModel(ContractError):
    """The catalogue has no model of this name; `nearest` are similar names."""

    code = "unknown-model"

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"there is no model named {name!r}{hint}")
        self.name = name
        self.nearest = nearest


class CatalogueError(ContractError):
    """The catalogue is not valid. The text names the model and the key."""

    code = "bad-catalogue"
