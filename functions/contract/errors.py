"""What can be wrong with a message, a payload or the catalogue.

    ContractError
    ├── MalformedMessage      malformed-message     a field is missing or wrong, or not JSON
    ├── UnsupportedSchema     unsupported-schema    written by a newer version than this
    ├── MessageTooLarge       message-too-large     would not fit into a Service Bus message
    ├── PayloadCorrupt        payload-corrupt       size or digest differ from the payload reference
    ├── IllegalStatusChange   illegal-status-change a final job cannot change
    ├── ForbiddenAddress      forbidden-address     a URL that we must not call
    ├── UnknownModel          unknown-model         not in the catalogue
    └── CatalogueError        bad-catalogue         models.toml is wrong

None of them is retryable: the same bytes fail in the same way again.
"""

from typing import ClassVar


class ContractError(Exception):
    """Base of all; `code` is stable and travels to callers."""

    code: ClassVar[str] = "contract-error"
    retryable: ClassVar[bool] = False


class MalformedMessage(ContractError):
    """The bytes are not a message: the text names the field and what was expected there."""

    code = "malformed-message"


class UnsupportedSchema(ContractError):
    """The message has a schema version that this code does not know."""

    code = "unsupported-schema"

    def __init__(self, found: object, supported: int) -> None:
        super().__init__(
            f"message has schema {found!r}, this version reads {supported}; "
            "upgrade the reader first"
        )
        self.found = found
        self.supported = supported


class MessageTooLarge(ContractError):
    """The encoded message is over the limit; its payload belongs in a blob."""

    code = "message-too-large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"message of {size_bytes} bytes is over the limit of {limit_bytes}; "
            "send the payload as a reference to a blob"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class PayloadCorrupt(ContractError):
    """A blob is not the one that the payload reference describes."""

    code = "payload-corrupt"


class IllegalStatusChange(ContractError):
    """A job was asked to go from one status to another that the table does not allow."""

    code = "illegal-status-change"

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a job cannot change from {before} to {after}")
        self.before = before
        self.after = after


class ForbiddenAddress(ContractError):
    """A stranger's URL leads where we must not go; the text is for whoever gave it."""

    code = "forbidden-address"


class UnknownModel(ContractError):
    """No such model; `nearest` are names that look like the one asked for."""

    code = "unknown-model"

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"there is no model named {name!r}{hint}")
        self.name = name
        self.nearest = nearest


class CatalogueError(ContractError):
    """The catalogue cannot be used: the text names the model and the key."""

    code = "bad-catalogue"
