"""Programs that load, disturb and judge a whole system: `./dev storm` and `./dev soak`."""
