"""The index of containers, blobs and blocks, in one SQLite database.

schema      the tables, the connections, and the classes of the rows that queries return
queries     functions that read the last committed state of the index
writes      functions that change the index, each in a transaction
committer   the thread that calls the functions in `writes` and commits their transactions
"""
