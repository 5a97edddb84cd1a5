"""Handling of dead-lettered messages.

A trigger stores each message that Service Bus moves to a dead-letter queue, and ends the message's
job as failed. Operators can redrive a stored message, which means that its request is sent again.
"""
