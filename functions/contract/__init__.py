"""The message formats and names that the gateway, the workers and producers share.

This package imports only the standard library.

    messages     the messages between gateway and worker, and their format as JSON
    catalogue    the model catalogue
    names        names that several processes use, for example the names of blobs
    queues       print the catalogue's queues in the format of Microsoft's Service Bus emulator
    media        recognise media types
    webhook      sign webhooks
    guard        check the URLs that callers give
    deliveries   the notes of workers about single deliveries
    heartbeats   the heartbeats of workers
    errors       the errors of this package
"""

from typing import Final

VERSION: Final = "0.1.0"
"""The version of gateway and worker."""
