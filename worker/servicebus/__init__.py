"""Receive messages from Service Bus, renew their locks, settle them, and send replies to queues.

link                  a connection to one queue through the SDK
receiver              receive and settle the messages of one queue; renew the locks
batched_settlement    complete several messages in one round trip
sender                send replies to queues
"""
