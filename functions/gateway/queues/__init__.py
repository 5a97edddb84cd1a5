"""A client for the models' Service Bus queues, and estimates of how long jobs wait in them."""
