"""The triggers that the host fires itself: Service Bus queues and timers."""
