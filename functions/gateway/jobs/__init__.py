"""Jobs. `model` defines their data, `lifecycle` finds and ends them, `orchestrator` runs them."""
