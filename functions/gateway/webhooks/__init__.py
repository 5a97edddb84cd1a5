"""Webhooks: after a job has ended, the gateway posts the job to the URL from the submission.

After the outcome of a job is recorded, the job's orchestration starts the orchestration `webhook`.
Therefore a receiver that gets the webhook and then reads the job always finds the job's final
status. The orchestration `webhook` tries for a day to deliver the webhook.
"""
