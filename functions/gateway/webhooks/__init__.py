"""Webhooks: an ended job is told to the URL that its submit named, for up to a day.

The job's orchestration ends as ever, and just before that starts another, `webhook`, by an
activity: the job is final, and whoever waits has the answer, whatever the receiver does.
"""
