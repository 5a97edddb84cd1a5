"""Service Bus: receive messages, renew their locks, settle them, and send replies to queues.

link                  the SDK's receiver for one queue
receiver              the thread of one queue: receives and settles
locks                 renews the locks of all messages in flight
batched_settlement    completes several messages in one round trip
sender                sends replies to queues
"""
