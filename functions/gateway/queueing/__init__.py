"""Service Bus: the models' queues, their lengths and pace, and their dead letters."""
