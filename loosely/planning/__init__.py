"""Models of a deployment, told as such: how many workers a load brings, and what that costs.

They run KEDA's and the autoscaler's rules over a day of jobs. They know no quota, no eviction, no
throttling and no other tenant; what they say is to be compared with the first week's bill.
"""
