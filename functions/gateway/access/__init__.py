"""Who may do what: callers and their keys and rates, and the workers' reply tokens."""
