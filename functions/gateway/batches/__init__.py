"""Batches: many jobs for one model from one file, with one file of results.

A batch is data in blobs, which a small orchestration drives. Each line of the file is a job without
an orchestration: one message, and one entry in a log of outcomes.
"""
