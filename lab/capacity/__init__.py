"""Estimate how many workers and nodes a number of jobs needs, and what they cost.

The simulation applies the rules of `loosely.local.autoscaler` to a day of jobs. The estimates
ignore quotas, evictions, throttling and other users of the cloud. After the first week, compare
them with your bill from Azure.
"""
