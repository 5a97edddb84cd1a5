"""Azure Blob Storage on one machine: the REST API of containers and block blobs.

The content of blobs is in files; names, properties and block lists are in one SQLite index. A write
is acknowledged only after its data is safe on disk.

server          serves HTTP: runs the operation of each ASGI request and sends the response
request         the parsed request and its body
authorization   Shared Key and shared access signatures
routes          finds the operation of a request
operations      the operations of the REST API
store           the data directory: `index` (SQLite) and `content` (files)

The only public interface is `python -m emulator.blobs`. Everything else is internal.
"""
