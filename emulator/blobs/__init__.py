"""A local replacement for Azure Blob Storage: containers, block blobs and append blobs over REST.

The content of blobs is stored in files. An SQLite database, the index, stores the names, properties
and block lists of the blobs. The service confirms a write only after the write is committed.

server          serves HTTP: runs the operation of each ASGI request and sends the response
request         the parsed request and its body
authorization   checks Shared Key credentials and shared access signatures
routes          finds the operation of a request
cors            decides which web pages may send requests and read responses
operations      the operations of the REST API
lease           the states of leases, and which requests they refuse
tags            the rules of index tags
store           the data directory: `index` (SQLite) and `content` (files)

The only public interface is `python -m emulator.blobs`. Everything else is internal.
"""
