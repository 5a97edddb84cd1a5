"""Message formats, names and rules that the gateway, the workers and producers share.

This package imports only the standard library.

    messages     the messages between gateway and worker, and their format as JSON
    catalogue    the model catalogue
    names        names that several processes use, for example the names of blobs
    named_tables read the named inputs and named results of a model in the catalogue
    parameters   read the schemas of a model's parameters, and check what callers send
    warm         parse the warm periods of a model
    settings     read the settings of a program from its environment variables
    weights      parse the locations of models' weights
    queues       describe the catalogue's queues as Microsoft's Service Bus emulator reads them
    __main__     print what other programs need from a catalogue
    media        recognise media types
    webhook      sign webhooks
    guard        check the URLs that callers give
    deliveries   the notes of workers about single deliveries
    heartbeats   the heartbeats of workers
    allocator    return free memory to the operating system
    errors       the errors of this package
"""

from typing import Final

VERSION: Final = "0.1.0"
"""The version of gateway and worker."""
