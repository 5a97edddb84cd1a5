"""Choosing the scheme by which a request proves its right."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.blobs.auth.grant import FULL_GRANT, Grant, Permission
from emulator.blobs.auth.sas import check_sas
from emulator.blobs.auth.sharedkey import check_shared_key
from emulator.blobs.auth.signature import AccountKey
from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.request import Request
from emulator.blobs.times import Clock

_CHALLENGE = {"WWW-Authenticate": 'SharedKey realm="storage"'}


@dataclass(frozen=True, slots=True)
class Authenticator:
    """The account's name and key, and the clock that signatures expire by."""

    account: str
    key: AccountKey
    clock: Clock

    def authenticate(self, request: Request, permission: Permission) -> Grant:
        """What ``request`` may do; raises StorageError if not the operation it asks for."""
        authorization = request.headers.get("authorization")
        if authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "sharedkey":
                raise StorageError(ErrorCode.INVALID_AUTHENTICATION_INFO)
            check_shared_key(request, credentials.strip(), self.account, self.key, self.clock())
            return FULL_GRANT
        if request.parameter("sig") is not None:
            return check_sas(request, permission, self.account, self.key, self.clock())
        raise StorageError(ErrorCode.NO_AUTHENTICATION_INFORMATION, headers=_CHALLENGE)
