"""Fair shares: jobs beyond a tenant's share of a busy model wait in the model's waiting room."""
