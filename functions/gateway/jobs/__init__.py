"""One job's life: its orchestration, what is known of it, and waiting for its end."""
