"""Dead letters: the trigger that fails their jobs, the stored letters, and their redrive."""
