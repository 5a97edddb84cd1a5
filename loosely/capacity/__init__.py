"""Models of capacity and cost: the numbers of workers and nodes that a load needs, and their cost.

- `scaling`, `autoscaler`: the rules of KEDA and of the Kubernetes HorizontalPodAutoscaler, as pure
  code whose clock is an argument. `loosely up --scale` applies them to real processes.
- `load`, `nodes`, `simulation`, `chart`: `loosely scale-model` simulates a day of jobs under these
  rules.
- `prices`, `cost`: `loosely cost` computes a month's bill from a simulated day.

The models ignore quotas, evictions, throttling and other users of the cloud. Compare their results
with the bill of the first week.
"""
