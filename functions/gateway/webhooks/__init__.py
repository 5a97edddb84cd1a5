"""Webhooks: after a job has ended, the gateway posts the job to the URL from the submission.

The orchestration `webhook` starts after the outcome is recorded, so the receiver finds it then.
"""
