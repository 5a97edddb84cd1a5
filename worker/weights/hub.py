"""Download files of the Hugging Face Hub.

A file has the URL ENDPOINT/ORG/NAME/resolve/COMMIT/FILE. The hub redirects large files to the
addresses of its storage, which are on other hosts. Each redirect is checked: HF_TOKEN is sent to
the endpoint only, never without TLS, and a redirect to a private address is refused.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx

from contract.errors import ForbiddenAddress
from contract.guard import AddressGuard
from contract.weights import WeightsLocation
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.settings import HubSettings
from worker.weights.cache import Download

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 30.0
# A download ends if less than this arrives in a minute. Without this limit, a server that sends a
# byte from time to time could keep the model from loading for ever.
_SLOWEST_BYTES: Final = 1024 * 1024
_WINDOW_SECONDS: Final = 60.0


class Hub:
    """Reads files of the Hugging Face Hub, or of a server with the same URLs.

    In the methods, `where` is the location of the weights, for messages.
    """

    def __init__(
        self,
        settings: HubSettings,
        guard: AddressGuard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments. The guard checks the host of each redirect to another host."""
        self._settings = settings
        self._guard = guard
        self._clock = clock

    def read(self, location: WeightsLocation) -> Download:
        """Start to download a file.

        Raises WeightsMissing if there is no such file or the token does not permit reading it, and
        WeightsUnavailable, also while the file is read, if the hub does not send it.
        """
        where = f"hf:{location.place}@{location.commit}/{location.path}"
        with ExitStack() as opened:
            client = opened.enter_context(
                httpx.Client(
                    timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
                    follow_redirects=False,
                )
            )
            url = f"{self._settings.endpoint}/{location.hub_path}"
            try:
                response = self._open(where, url, client, opened)
            except httpx.HTTPError as error:
                # The error's text could contain a signed URL.
                raise WeightsUnavailable(
                    f"{where}: {self._settings.endpoint} cannot be reached: {type(error).__name__}"
                ) from None
            length = response.headers.get("content-length", "")
            size_bytes = int(length) if length.isascii() and length.isdecimal() else None
            kept = opened.pop_all()
            return Download(self._read(where, response), size_bytes, kept.close)

    def _open(
        self, where: str, url: str, client: httpx.Client, opened: ExitStack
    ) -> httpx.Response:
        """Send the request and follow redirects. `opened` closes all responses."""
        for _ in range(_MAX_REDIRECTS + 1):
            headers = {"accept-encoding": "identity", "user-agent": "loosely-worker"}
            if _origin(url) == _origin(self._settings.endpoint):
                if self._settings.token:
                    headers["authorization"] = f"Bearer {self._settings.token}"
            else:
                self._check_redirect(where, url)
            response = client.send(client.build_request("GET", url, headers=headers), stream=True)
            opened.callback(response.close)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or location is None:
                self._check_status(where, response)
                return response
            response.close()
            try:
                url = urljoin(url, location)
                # The parts that are used later must be valid, too, for example the port.
                _origin(url)
                httpx.URL(url)
            except (ValueError, httpx.InvalidURL):
                raise WeightsUnavailable(f"{where}: the hub redirects to an invalid URL") from None
        raise WeightsUnavailable(f"{where}: the hub redirects more than {_MAX_REDIRECTS} times")

    def _check_redirect(self, where: str, url: str) -> None:
        """Raise WeightsUnavailable if the SSRF guard does not allow the host of this URL."""
        parts = urlsplit(url)
        try:
            # Without the path, because signed URLs are longer than the URLs of callers may be.
            self._guard.check_form(f"{parts.scheme}://{parts.netloc}/")
        except ForbiddenAddress as error:
            raise WeightsUnavailable(
                f"{where}: the hub redirects to a URL that is refused: {error}"
            ) from None

    def _check_status(self, where: str, response: httpx.Response) -> None:
        """Raise WeightsMissing or WeightsUnavailable if the status is not 200."""
        status = response.status_code
        if status == httpx.codes.OK:
            return
        # For example EntryNotFound, RevisionNotFound, RepoNotFound or GatedRepo.
        code = response.headers.get("x-error-code", "")
        shown = f"status {status}" + (f", {code}" if code.isalnum() else "")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            cause = (
                "cannot be read with HF_TOKEN"
                if self._settings.token
                else "needs a token, but HF_TOKEN is not set"
            )
            raise WeightsMissing(
                f"{where}: the repository does not exist, or {cause} ({shown}): check the name, "
                "accept the repository's conditions, and set HF_TOKEN to a token that may read it"
            )
        if status == httpx.codes.NOT_FOUND:
            raise WeightsMissing(
                f"{where}: this repository, commit or file does not exist ({shown}): check the "
                "key `weights` of the model's entry in the catalogue"
            )
        raise WeightsUnavailable(f"{where}: the hub has answered with {shown}; expected 200")

    def _read(self, where: str, response: httpx.Response) -> Iterator[bytes]:
        begun, arrived_bytes = self._clock(), 0
        try:
            for piece in response.iter_raw():
                yield piece
                arrived_bytes += len(piece)
                now = self._clock()
                if now - begun < _WINDOW_SECONDS:
                    continue
                if arrived_bytes < _SLOWEST_BYTES:
                    raise WeightsUnavailable(
                        f"{where}: the download is too slow: {arrived_bytes} bytes in "
                        f"{now - begun:.0f} s; expected at least {_SLOWEST_BYTES} bytes"
                    )
                begun, arrived_bytes = now, 0
        except httpx.HTTPError as error:
            raise WeightsUnavailable(
                f"{where}: the download was interrupted: {type(error).__name__}"
            ) from None


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, the host and the port of a URL."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default
