"""The streams of jobs: the events that workers write while a job runs, for any number of readers.

`store` reads the logs of the events, which are append blobs or Redis Streams. `feeds` reads the
logs that have readers, in one task for the whole process. `following` follows one job from an event
to the end of the job, and limits how many readers there are.
"""
