"""Azure Service Bus on one machine: AMQP 1.0 in front of queues that live in SQLite."""
