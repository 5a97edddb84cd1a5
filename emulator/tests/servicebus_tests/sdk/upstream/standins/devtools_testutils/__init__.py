"""A replacement for Azure's internal test tools, which are not published.

This package has the functions and classes that the tests of azure-servicebus use. The tests always
call a running service, so functions that record requests or hide secrets do nothing.
"""

import functools
import inspect
import itertools
import os
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest
from typing import Any
from urllib.parse import quote_plus, urlencode
from uuid import uuid4

from azure.core.credentials import AccessToken

_TOKEN_SECONDS = 3600


class AzureTestError(Exception):
    """Raised if a resource that a test needs could not be created."""


class ReservedResourceNameError(Exception):
    """Raised if the name of a resource is reserved."""


@dataclass
class FakeResource:
    """Replaces a resource group of Azure. It has only the attributes that the tests use."""

    name: str
    id: str


class _Credential:
    """A credential whose tokens are signed with the namespace's key, as the emulator requires."""

    token_type = b"servicebus.windows.net:sastoken"

    def get_token(self, audience: str, *_: str, **__: Any) -> AccessToken:
        expires_at = int(time.time()) + _TOKEN_SECONDS
        key = os.environ["EMULATOR_KEY"].encode()
        signed = f"{quote_plus(audience)}\n{expires_at}".encode()
        fields = {
            "sr": audience,
            "sig": b64encode(digest(key, signed, sha256)),
            "se": expires_at,
            "skn": os.environ["EMULATOR_KEY_NAME"],
        }
        return AccessToken(f"SharedAccessSignature {urlencode(fields)}", expires_at)

    def close(self) -> None:
        """Do nothing, because the credential holds no resources."""

    def __enter__(self) -> "_Credential":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AsyncCredential:
    """The same credential as `_Credential`, with asynchronous methods."""

    token_type = _Credential.token_type

    async def get_token(self, audience: str, *_: str, **__: Any) -> AccessToken:
        return _Credential().get_token(audience)

    async def close(self) -> None:
        """Do nothing, because the credential holds no resources."""

    async def __aenter__(self) -> "_AsyncCredential":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def get_credential(is_async: bool = False, **_: Any) -> Any:
    """Return a credential for the asynchronous clients, or for the blocking clients."""
    return _AsyncCredential() if is_async else _Credential()


class AzureRecordedTestCase:
    """The base class of the test classes of azure-servicebus."""

    is_live = True

    def create_random_name(self, prefix: str) -> str:
        """Return an unused name with this prefix."""
        return prefix + uuid4().hex[:8]

    def get_credential(self, _: Any, **options: Any) -> Any:
        """Return a credential for the asynchronous clients, or for the blocking clients."""
        return get_credential(options.get("is_async", False))


class AzureMgmtRecordedTestCase(AzureRecordedTestCase):
    """The base class of the test classes that create resources."""


class AzureMgmtPreparer:
    """A decorator that creates a resource, passes it to the test, and removes it afterwards.

    If `set_cache` has enabled the cache, the resource is not removed. Later tests that set the same
    cache key receive this resource again.
    """

    _cache: dict[Any, dict[str, Any]] = {}  # noqa: RUF012 - shared by all preparers
    _serial = itertools.count()

    def __init__(self, name_prefix: str = "", *_: Any, **options: Any) -> None:
        self.name_prefix = name_prefix
        self.random_name_enabled = options.get("random_name_enabled", False)
        self.resource = options.get("playback_fake_resource")
        self.resource_random_name: str | None = None
        self.resource_moniker = self.moniker = "moniker"
        self.is_live = True
        self.test_class_instance: Any = None
        self.client: Any = None
        self._cache_key: tuple[str, ...] | None = None

    def set_cache(self, enabled: bool, *key: Any) -> None:
        """If `enabled` is true, share the resource with other tests that set the same `key`."""
        self._cache_key = (type(self).__name__, *map(repr, key)) if enabled else None

    def create_mgmt_client(self, kind: Callable[[], Any], **_: Any) -> Any:
        """Return a new management client of the class `kind`."""
        return kind()

    def create_resource(self, name: str, **_: Any) -> dict[str, Any]:
        """Create no resource, and return no arguments for the test."""
        return {}

    def remove_resource(self, name: str, **_: Any) -> None:
        """Do nothing. Subclasses remove the resource with this name."""

    def __call__(self, test: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that creates the resource, and then runs `test` with the resource."""
        if inspect.iscoroutinefunction(test):

            async def run_async(instance: Any, **given: Any) -> None:
                name, made = self._prepare(instance, given)
                try:
                    await test(instance, **_wanted(test, {**given, **made}))
                finally:
                    self._clean_up(name, {**given, **made})

            return _prepared(run_async, test)

        def run(instance: Any, **given: Any) -> None:
            name, made = self._prepare(instance, given)
            try:
                test(instance, **_wanted(test, {**given, **made}))
            finally:
                self._clean_up(name, {**given, **made})

        return _prepared(run, test)

    def _prepare(self, instance: Any, given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Create the resource, or find it in the cache.

        `given` are the arguments that other preparers have created for the test.

        Returns two values. The first is the name of the resource if the resource must be removed
        after the test, otherwise None. The second is the arguments that the resource adds to the
        test.
        """
        self.test_class_instance = instance
        around = tuple(getattr(each, "id", None) for each in given.values())
        key = (*self._cache_key, around) if self._cache_key else None
        if key in self._cache:
            return None, self._cache[key]
        name = self.resource_random_name or f"{self.name_prefix}{uuid4().hex[:12]}"
        made = self.create_resource(name, **given)
        if key is not None:
            self._cache[key] = made
            return None, made
        return name, made

    def _clean_up(self, name: str | None, given: dict[str, Any]) -> None:
        if name is not None:
            self.remove_resource(name, **given)


def _prepared(wrapper: Callable[..., Any], test: Callable[..., Any]) -> Callable[..., Any]:
    functools.update_wrapper(wrapper, test)
    wrapper.is_prepared = True  # type: ignore[attr-defined]  # all arguments must be passed to it
    return wrapper


def _wanted(test: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    if hasattr(test, "is_prepared"):
        return given
    parameters = inspect.signature(test).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


class RandomNameResourceGroupPreparer(AzureMgmtPreparer):
    """Provides only the name of a resource group, because the emulator has no resource groups."""

    def create_resource(self, name: str, **_: Any) -> dict[str, Any]:
        """Return a resource group that has only a name. No resource is created."""
        return {"resource_group": FakeResource(name, name), "location": "local"}


CachedResourceGroupPreparer = RandomNameResourceGroupPreparer


def _keep(*_: Any, **__: Any) -> Callable[[Any], Any]:
    return lambda test: test


PowerShellPreparer = _keep


def recorded_by_proxy(test: Any) -> Any:
    """Return the test unchanged, because live tests are not recorded."""
    return test


def get_region_override(default: str = "local") -> str:
    """Return the Azure region in which tests create resources."""
    return default


def add_general_regex_sanitizer(**_: Any) -> None:
    """Do nothing, because live tests are not recorded."""


def set_custom_default_matcher(**_: Any) -> None:
    """Do nothing, because live tests are not recorded."""
