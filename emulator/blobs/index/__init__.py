"""The index: which containers, blobs and blocks there are, in one SQLite database.

Its commit is what makes a write true. One thread commits (``committer``); readers look at the
last committed state through connections of their own and never wait for it.
"""
