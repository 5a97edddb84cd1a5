"""The contract between gateway, worker and other producers. It imports only the standard library.

`messages` defines the messages and their JSON, `catalogue` the models and their queues, and `names`
every string that two processes share. `media` recognises media types, `webhook` signs webhooks, and
`guard` checks the URLs that callers give. `python -m contract.queues` prints the queues in the
format of Microsoft's Service Bus emulator.
"""
