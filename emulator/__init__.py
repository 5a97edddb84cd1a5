"""Azure on one machine: Service Bus, Functions host and Blob storage, each on its own."""
