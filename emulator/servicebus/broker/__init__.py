"""The queues of a namespace, with their rules and their SQLite database.

broker          opens the database; creates, finds and deletes queues
queue           performs the operations that callers request on one queue
queue_state     applies the rules of one queue, without input or output
message_table   keeps all message records in memory; can undo changes before a commit
dispatcher      assigns messages to receivers that have credit
transactions    collects changes and writes them to the database in one transaction
store           reads and writes the database

The public names are `Broker`, `Queue`, `QueueSettings`, the classes in `message` and the errors.
"""
