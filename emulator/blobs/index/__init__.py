"""The index of containers, blobs and blocks, in one SQLite database.

schema      tables, connections and the records that queries return
queries     functions that read the last committed state of the index
writes      functions that change the index, each in a transaction
committer   runs the changes and commits them on one thread
"""
