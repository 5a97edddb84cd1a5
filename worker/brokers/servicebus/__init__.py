"""Receive messages from Service Bus, renew their locks, settle them, and send replies."""
