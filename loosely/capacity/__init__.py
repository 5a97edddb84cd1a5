"""Models of capacity and cost: how many workers and nodes a load needs, and what they cost.

- `scaling`, `autoscaler`: the rules of KEDA and of the Kubernetes HorizontalPodAutoscaler, as pure
  code that is given the time. `loosely up --scale` applies them to real processes.
- `load`, `nodes`, `simulation`, `chart`: `loosely scale-model` simulates a day of jobs under them.
- `prices`, `cost`: `loosely cost` turns such a day into a month's bill.

The models have no quotas, evictions, throttling or other tenants. Compare their figures with the
first week's bill.
"""
