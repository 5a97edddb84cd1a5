"""Serve the model with LitServe, which restarts a killed worker.

The environment variable `PEER_BATCH_SIZE` is the largest number of pictures in a batch.
"""

import os
import sys
from typing import Any

import litserve
from fastapi import Request

from lab.benchmarks.peers.job import PeerModel

_BATCH_SIZE = int(os.environ["PEER_BATCH_SIZE"])


class Classify(litserve.LitAPI):
    """The LitServe API. It reads the picture from a form, because LitServe reads no raw bodies."""

    def setup(self, device: str) -> None:
        """Load the model in the worker process."""
        self.model = PeerModel.load()

    def decode_request(self, request: Request) -> Any:
        """Return the decoded and prepared picture of a request."""
        return self.model.decode(request["picture"].file.read())

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Return the inputs unchanged, because `PeerModel.run` combines them into one tensor."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Return the outputs for a list of pictures if batches are on, or for one picture."""
        return self.model.run(x) if _BATCH_SIZE > 1 else self.model.run([x])[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the list of outputs unchanged, because it already has one output per picture."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Convert the output of the model to the result that the response contains."""
        return self.model.finish(output)


if __name__ == "__main__":
    api = Classify(
        max_batch_size=_BATCH_SIZE,
        batch_timeout=0.01 if _BATCH_SIZE > 1 else 0.0,
        api_path="/jobs",
    )
    server = litserve.LitServer(api, accelerator="cpu", timeout=180, restart_workers=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
    )
