"""/v2: the Open Inference Protocol over the same jobs. `routes.router` is the public entry."""
