"""Azure on one machine: Service Bus, Functions host and Blob Storage, as separate programs."""
