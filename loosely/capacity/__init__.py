"""Estimate how many workers and nodes a number of jobs needs, and what they cost.

- `scaling`, `autoscaler`: the rules of KEDA and of the Kubernetes HorizontalPodAutoscaler, as pure
  code whose clock is an argument. `loosely up --scale` applies them to real processes.
- `load`, `nodes`, `simulation`, `chart`: `loosely scale-model` simulates a day of jobs under these
  rules.
- `prices`, `cost`: `loosely cost` computes a month's bill from a simulated day.

The estimates ignore quotas, evictions, throttling and other users of the cloud. After the first
week, compare them with your bill from Azure.
"""
