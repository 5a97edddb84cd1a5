"""What gateway, worker and internal producers agree on. Standard library only.

`messages` are the types, `codec` their JSON bytes, `status` a job's life, `catalogue` the models,
`names` every string that crosses a process boundary, `claimcheck` what travels in a blob instead.
"""
