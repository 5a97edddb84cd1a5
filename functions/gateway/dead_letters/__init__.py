"""Store the messages that the broker dead-letters, so that operators can redrive or purge them.

A trigger stores each message that the broker moves to a dead-letter queue. The message's job then
ends with the status `failed`. If an operator redrives a dead letter, the gateway sends its request
again, as a new job.
"""
