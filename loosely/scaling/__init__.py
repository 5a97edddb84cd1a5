"""How many workers a queue asks for: KEDA's rules, and the Kubernetes autoscaler's on top.

The rules are pure and told the time, so that `loosely up --scale` can follow them with real
processes and `loosely scale-model` can run them through a month in a second. They restate what
KEDA 2.19 and the autoscaling/v2 controller do; they are not those programs.
"""
