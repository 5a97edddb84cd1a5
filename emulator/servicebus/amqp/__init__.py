"""The server's side of AMQP 1.0 over asyncio (the OASIS standard of October 2012).

connection   protocol headers, SASL, open, close, idle time-out
session      transfer windows, handles, dispositions
link         credit and deliveries in one direction; the interfaces that a service implements
codec, types, performatives, outcomes, sections, frames   the bytes
websocket    AMQP inside a WebSocket

The interfaces `ConnectionService`, `LinkSource` and `LinkTarget` in `link` are what a service
implements; `connection.Connection` is the asyncio protocol that calls them.
"""
