"""Azure Blob Storage on one machine: the REST API of containers and block blobs.

Content lies in files, everything else in one SQLite index. A write is acknowledged only when it is
safe on disk.

server          HTTP: from an ASGI request to an operation and back
request         the parsed request and its body
authorization   Shared Key and shared access signatures
routes          which operation a request means
operations      the operations of the REST API
store           the data directory: `index` (SQLite) and `content` (files)

Public: `python -m emulator.blobs`. Everything else is internal.
"""
