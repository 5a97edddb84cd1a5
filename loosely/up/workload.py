"""What there is to do, and who is at it, asked over HTTP as KEDA asks Service Bus."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import httpx

_HOST = "127.0.0.1"
_TIMEOUT_SECONDS = 5.0


class Uncounted(Exception):
    """The queues' lengths cannot be had; the message says why."""


class Workload:
    """The models' queues by the gateway's `/v1/models`, the workers' jobs by their `/ready`."""

    def __init__(
        self, gateway_url: str, models: Iterable[str] = (), api_key: str | None = None
    ) -> None:
        """Count the queues of ``models`` alone, if there are any, else all.

        ``api_key`` is for gateways that ask for one.
        """
        self._url = f"{gateway_url}/v1/models"
        self._models = frozenset(models)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __aenter__(self) -> Self:
        # Never through a proxy: everything is on this machine.
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def counts(self) -> list[int | None]:
        """Return each model's active messages, those that workers hold included.

        Raises:
            Uncounted: the gateway does not tell.
        """
        try:
            answer = await self._client.get(self._url, headers=self._headers)
            if answer.status_code != httpx.codes.OK:
                raise Uncounted(f"{self._url} answered {answer.status_code}")
            models = answer.json()["models"]
            return [
                _count(model["queue_length"])
                for model in models
                if not self._models or model["name"] in self._models
            ]
        except httpx.HTTPError as error:
            raise Uncounted(f"{self._url}: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Uncounted(f"{self._url} is no list of models") from error

    async def held(self, health_port: int) -> int | None:
        """Return how many jobs a worker holds; ``None`` if it does not tell."""
        try:
            # A worker that is not ready yet says so by 503, and what it holds all the same.
            answer = await self._client.get(f"http://{_HOST}:{health_port}/ready")
            return sum(int(model["held"]) for model in answer.json()["models"].values())
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _count(value: Any) -> int | None:
    return None if value is None else int(value)
