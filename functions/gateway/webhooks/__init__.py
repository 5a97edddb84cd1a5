"""Webhooks: an ended job is posted to the URL of its submission, for up to a day.

A job's orchestration starts another one, `webhook`, just before it ends. So the job is final, and
its callers have the answer, before the receiver is contacted.
"""
