"""The one cryptographic act of the storage service: HMAC-SHA256 under the account key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from emulator.program import SettingError


class AccountKey:
    """An account's secret; it shows itself in no repr."""

    __slots__ = ("_key",)

    def __init__(self, encoded: str) -> None:
        try:
            self._key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise SettingError("the account key is not Base64") from None
        if not self._key:
            raise SettingError("the account key is empty")

    def __repr__(self) -> str:
        return "AccountKey(…)"

    def sign(self, text: str) -> str:
        """The signature over ``text``, in Base64."""
        digest = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return base64.b64encode(digest).decode()

    def verifies(self, text: str, signature: str) -> bool:
        """Whether ``signature`` is ours over ``text``; takes the same time either way."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))
