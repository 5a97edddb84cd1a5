"""The queues, with their rules, receivers and SQLite database, independent of AMQP.

broker          opens the database; creates, finds and deletes queues
queue           the operations of one queue that callers use
queue_state     the rules of one queue, without input or output
message_table   all messages in memory, with the changes since the last commit
dispatcher      assigns messages to receivers that have credit
transactions    writes the changes of one tick of the event loop in one transaction
store           the database

The public names are `Broker`, `Queue`, `QueueSettings`, the classes in `message` and the errors.
"""
