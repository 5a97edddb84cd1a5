"""The queues and topics of a namespace, with their rules and their SQLite database.

broker              opens the database; creates, finds and deletes queues and topics
queue               performs the operations that callers request on one queue
queue_state         applies the rules of one queue, without input or output
topic               copies the messages of a topic to its subscriptions, which are queues
subscription_rules  selects messages with filters, and changes them with actions
sql_filter          parses and evaluates the expressions of SQL filters and actions
message_sessions    locks message sessions for receivers
property_values     the properties of messages and their values, which filters compare
message_table       keeps all message records in memory; can undo changes before a commit
dispatcher          assigns messages to receivers that have credit
transactions        collects changes and writes them to the database in one transaction
store               reads and writes the database

The public names are `Broker`, `Queue`, `Topic`, the settings, the rules of subscriptions, the
classes in `message` and the errors.
"""
