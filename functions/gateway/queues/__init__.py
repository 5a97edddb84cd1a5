"""The models' queues on Service Bus: the client, and estimates of positions and waits."""
