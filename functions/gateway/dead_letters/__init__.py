"""Dead letters: a trigger stores each letter and fails its job; operators can redrive letters."""
