"""`./dev bench`: one run that prints latency, throughput, efficiency, start-up and memory."""
