"""A worker that receives messages with the SDK, one after the other, and sends the replies.

`python -m lab.benchmarks.peers.servers.azure_sdk.worker PORT`, with the port of the Function App.
"""

import http.client
import json
import os
import sys

from azure.servicebus import ServiceBusClient

from lab.benchmarks.peers.job import PeerModel

_PREFETCH_COUNT = 16


def main(port: int) -> None:
    """Run the model on each message of the queue, and send the result to the Function App."""
    model = PeerModel.load()
    gateway = http.client.HTTPConnection("127.0.0.1", port)
    client = ServiceBusClient.from_connection_string(os.environ["PEER_SERVICE_BUS"])
    with client, client.get_queue_receiver("jobs", prefetch_count=_PREFETCH_COUNT) as receiver:
        for message in receiver:
            result = json.dumps(model(b"".join(message.body)))
            gateway.request("POST", f"/replies/{message.message_id}", result.encode())
            gateway.getresponse().read()
            receiver.complete_message(message)


if __name__ == "__main__":
    main(int(sys.argv[1]))
