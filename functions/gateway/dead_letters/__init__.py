"""Handling of dead-lettered messages.

A trigger stores each message that Service Bus moves to a dead-letter queue. The message's job then
ends with the status `failed`. Operators can redrive a stored message: the gateway sends its request
again.
"""
