"""From the queue to a job in hand, and its settlement: Service Bus, locks, leases."""
