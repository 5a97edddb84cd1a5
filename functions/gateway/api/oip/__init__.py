"""/v2: the Open Inference Protocol over the same jobs."""
