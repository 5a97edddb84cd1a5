"""The server's side of AMQP 1.0 over asyncio (the OASIS standard of October 2012).

connection   protocol headers, SASL, open, close, idle time-out
session      transfer windows, handles, dispositions
link         credit and deliveries in one direction
codec, types, performatives, outcomes, sections, frames   encoding and decoding
websocket    AMQP inside a WebSocket

A service implements the interfaces `ConnectionService`, `LinkSource` and `LinkTarget` of `link`.
`connection.Connection` is the asyncio protocol that calls the service.
"""
