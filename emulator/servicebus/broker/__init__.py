"""The queues themselves: their semantics and their durability, without a word of AMQP."""
