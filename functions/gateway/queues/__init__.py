"""A client for the models' queues, and estimates of how long jobs wait in them."""
