"""The queues of a namespace, with their rules and their SQLite database. AMQP is not used here.

broker          opens the database; creates, finds and deletes queues
queue           performs the operations that callers request on one queue
queue_state     applies the rules of one queue, without input or output
message_table   keeps all message records in memory; can undo the changes since the last commit
dispatcher      assigns messages to receivers that have credit
transactions    writes the changes of one tick of the event loop in one transaction
store           reads and writes the database

The public names are `Broker`, `Queue`, `QueueSettings`, the classes in `message` and the errors.
"""
