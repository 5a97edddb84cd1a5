"""RabbitMQ as the broker of the worker."""
