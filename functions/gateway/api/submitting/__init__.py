"""From a request to an accepted job: reading it, checking it, starting it once."""
