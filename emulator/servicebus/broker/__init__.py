"""The queues: their rules, their receivers and their SQLite database, without AMQP.

broker          opens the database; creates, finds and deletes queues
queue           one queue as its users call it
queue_state     the rules of one queue as pure functions of messages and time
message_table   all messages in memory, with the changes since the last commit
dispatcher      gives messages to receivers with credit
transactions    writes the changes of one tick of the event loop in one transaction
store           the database

Public: `Broker`, `Queue`, `QueueSettings`, the messages in `message` and the errors.
"""
