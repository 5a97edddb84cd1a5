"""The dramatiq worker, which stores its results in Redis.

If the worker is killed, dramatiq waits until the last heartbeat of the worker is 5 s old. Then it
returns the worker's unfinished jobs to the queue. By default, dramatiq waits 60 s.
"""

import base64
import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis

from lab.benchmarks.peers.job import PeerModel

_models: list[PeerModel] = []


class _LoadModel(Middleware):
    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        _models.append(PeerModel.load())


broker = RedisBroker(url=os.environ["PEER_REDIS"], heartbeat_timeout=5_000)
# By default, redis 8 gives up a blocking read after 5 s, and a caller's request would fail.
_results = Redis.from_url(os.environ["PEER_REDIS"], socket_timeout=None)
broker.add_middleware(Results(backend=RedisBackend(client=_results)))
broker.add_middleware(_LoadModel())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, result_ttl=300_000)
def classify(picture: str) -> dict[str, Any]:
    """Return the model's result for a picture in base64, because messages are JSON."""
    return _models[0](base64.b64decode(picture))
