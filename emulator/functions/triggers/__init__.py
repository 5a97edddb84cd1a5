"""The triggers that do not need a request to the host: Service Bus queues and timers."""
