"""Webhooks: after a job has ended, the gateway posts the job to the URL from the submission.

Just before the orchestration of a job ends, it starts the orchestration `webhook`. This
orchestration tries for a day to deliver the webhook. Therefore the job is final before the receiver
gets the webhook.
"""
