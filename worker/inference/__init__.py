"""A model at work: loading it, gathering batches, running them."""
