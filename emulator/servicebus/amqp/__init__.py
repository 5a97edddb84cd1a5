"""The server's side of AMQP 1.0 (the OASIS standard of October 2012), implemented with asyncio.

connection   protocol headers, SASL, open, close, idle time-out
session      transfer windows, link handles, dispositions
link         links and their credit; a link carries messages in one direction
codec, types, performatives, outcomes, sections, frames   encoding and decoding
websocket    AMQP inside a WebSocket

A service implements `ConnectionService`, `LinkSource` and `LinkTarget`, which `link` defines.
`connection.Connection` is the asyncio protocol that calls the service.
"""
