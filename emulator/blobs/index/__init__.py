"""The index of containers, blobs and blocks, in one SQLite database.

schema      tables, connections and the records that queries return
queries     read the index, in the state of the last commit
writes      change the index; each function runs in a transaction
committer   runs changes and commits on one thread
"""
