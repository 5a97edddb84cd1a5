"""What a job's caller hears: replies, progress, and where both go."""
