"""Service Bus: receive messages, renew their locks, settle them, and send replies to queues.

link                  a connection to one queue through the SDK
receiver              the loop that receives and settles the messages of one queue
locks                 renew the locks of all messages in flight
batched_settlement    complete several messages in one round trip
sender                send replies to queues
"""
