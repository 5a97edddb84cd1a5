"""The errors of messages, payloads, settings and the catalogue.

    ContractError
    ├── MalformedMessage      malformed-message     not JSON, or a field is missing or wrong
    ├── UnsupportedSchema     unsupported-schema    this program cannot read the schema version
    ├── MessageTooLarge       message-too-large     too large for a Service Bus message
    ├── PayloadCorrupt        payload-corrupt       size or digest differ from the reference
    ├── ForbiddenAddress      forbidden-address     requests to this URL are not allowed
    ├── TooManyLookUps        too-many-look-ups     too many host names are being looked up
    ├── UnknownModel          unknown-model         the model is not in the catalogue
    ├── CatalogueError        bad-catalogue         models.toml cannot be read or is wrong
    └── InvalidSetting        bad-setting           a setting of a program is missing or wrong

Only TooManyLookUps is retryable. After the other errors, a retry with the same data would fail
again.
"""

from typing import ClassVar


class ContractError(Exception):
    """The base class. `code` is the error's name for callers and operators, and never changes."""

    code: ClassVar[str] = "contract-error"
    retryable: ClassVar[bool] = False


class MalformedMessage(ContractError):
    """The message is not JSON, or a field is missing or wrong. The error's text gives details."""

    code = "malformed-message"


class UnsupportedSchema(ContractError):
    """The message has a schema version that this program cannot read."""

    code = "unsupported-schema"

    def __init__(self, found: object, *supported: int) -> None:
        super().__init__(
            f"the message has schema version {found!r}, but this program reads "
            f"{' and '.join(map(str, supported))}; upgrade this program first"
        )
        self.found = found
        self.supported = supported


class MessageTooLarge(ContractError):
    """The encoded message exceeds the size limit. The sender must store the payload as a blob."""

    code = "message-too-large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the message has {size_bytes} bytes; at most {limit_bytes} are allowed; "
            "store the payload as a blob and send a reference to it"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class PayloadCorrupt(ContractError):
    """The size or digest of a blob differs from the size or digest in the payload reference."""

    code = "payload-corrupt"


class ForbiddenAddress(ContractError):
    """Requests to this URL are not allowed. The caller that sent the URL sees the error's text."""

    code = "forbidden-address"


class TooManyLookUps(ContractError):
    """Too many DNS look-ups are running, in this process or for one tenant or model."""

    code = "too-many-look-ups"
    retryable = True

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} host names are still being looked up in DNS, so no other name is accepted; "
            "try again later"
        )


class UnknownModel(ContractError):
    """The catalogue has no model with this name. `nearest` contains similar names that exist."""

    code = "unknown-model"

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"there is no model named {name!r}{hint}")
        self.name = name
        self.nearest = nearest


class CatalogueError(ContractError):
    """The model catalogue cannot be read or is not valid. The error's text says what is wrong."""

    code = "bad-catalogue"


class InvalidSetting(ContractError):
    """A setting is missing or wrong, so the program cannot start. The text names the setting."""

    code = "bad-setting"
