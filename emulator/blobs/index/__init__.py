"""The index of containers, blobs and blocks, in one SQLite database.

schema      tables, connections and the records that queries return
queries     reads, each through a connection that sees the last commit
writes      changes, each a function that runs in a transaction
committer   the one thread that commits
"""
