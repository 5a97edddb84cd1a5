"""The contract between gateway, worker and other producers. It uses the standard library alone.

`messages` has the messages and their JSON, `catalogue` the models and their queues, `names` every
string that two processes share. `media` recognises media types, `webhook` signs, `guard` checks the
URLs of callers. `python -m contract.queues` prints the queues for a Service Bus emulator.
"""
