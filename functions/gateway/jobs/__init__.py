"""Jobs: `model` defines their data, `orchestrator` runs them, `lifecycle` finds and ends them."""
