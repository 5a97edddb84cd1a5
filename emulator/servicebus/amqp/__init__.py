"""The server's side of AMQP 1.0 (the OASIS standard of October 2012), implemented with asyncio.

connection   protocol headers, SASL, open, close, idle time-out
session      transfer windows, link handles, dispositions
link         links, which carry messages in one direction, and their credit
codec, types, performatives, outcomes, sections, frames   encoding and decoding
websocket    AMQP inside a WebSocket

The module `link` defines the interfaces `ConnectionService`, `LinkSource` and `LinkTarget`. Code
outside this package implements these interfaces. `connection.Connection` is the asyncio protocol of
one connection.
"""
