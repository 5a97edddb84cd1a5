"""The errors of messages, payloads and the catalogue.

    ContractError
    ├── MalformedMessage      malformed-message     not JSON, or a field is missing or wrong
    ├── UnsupportedSchema     unsupported-schema    its schema version cannot be read here
    ├── MessageTooLarge       message-too-large     too large for a Service Bus message
    ├── PayloadCorrupt        payload-corrupt       size or digest differ from the reference
    ├── ForbiddenAddress      forbidden-address     the URL must not be called
    ├── UnknownModel          unknown-model         the model is not in the catalogue
    └── CatalogueError        bad-catalogue         models.toml is wrong

None of these errors is retryable, because the same bytes would fail again.
"""

from typing import ClassVar


class ContractError(Exception):
    """Base class of the errors of the contract. Callers see `code`, which never changes."""

    code: ClassVar[str] = "contract-error"
    retryable: ClassVar[bool] = False


class MalformedMessage(ContractError):
    """The bytes are not a valid message. The error message names the field and what is expected."""

    code = "malformed-message"


class UnsupportedSchema(ContractError):
    """The message has a schema version that this code cannot read."""

    code = "unsupported-schema"

    def __init__(self, found: object, supported: int) -> None:
        super().__init__(
            f"the message has schema version {found!r}, but this program reads {supported}; "
            "upgrade this program first"
        )
        self.found = found
        self.supported = supported


class MessageTooLarge(ContractError):
    """The encoded message exceeds the size limit. Its payload must be stored as a blob."""

    code = "message-too-large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the message has {size_bytes} bytes; at most {limit_bytes} are allowed; "
            "store the payload as a blob and send a reference to it"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class PayloadCorrupt(ContractError):
    """The content of a blob does not match its payload reference."""

    code = "payload-corrupt"


class ForbiddenAddress(ContractError):
    """A URL must not be called. The error message is shown to the caller that sent the URL."""

    code = "forbidden-address"


class UnknownModel(ContractError):
    """The catalogue has no model with this name. `nearest` contains the most similar names."""

    code = "unknown-model"

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"there is no model named {name!r}{hint}")
        self.name = name
        self.nearest = nearest


class CatalogueError(ContractError):
    """The catalogue is not valid. The error message names the model and the key, if known."""

    code = "bad-catalogue"
