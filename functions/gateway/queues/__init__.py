"""The models' queues on Service Bus: the client, and estimates of queue positions and waits."""
