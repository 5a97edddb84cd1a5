"""Webhooks: when a job has ended, it is posted to the URL that its submission named.

Just before a job's orchestration ends, it starts the orchestration `webhook`, which tries to
deliver for a day. Therefore the job is final before the receiver is contacted.
"""
