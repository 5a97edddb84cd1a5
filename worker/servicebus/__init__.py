"""Receive messages from Service Bus, renew their locks, settle them, and send replies to queues.

link                  a connection to one queue through the SDK
receiver              receive and settle the messages of one queue
locks                 renew the locks of all received messages
lock_journal          store lock tokens in a file, for the worker that replaces this worker
last_arrivals         store the lock tokens of messages that were sent to a worker that was killed
batched_settlement    complete several messages in one round trip
sender                send replies to queues
"""
