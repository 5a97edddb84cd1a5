"""The parts of the smoke test of a deployment that `infra/scripts/smoke-test.sh` runs."""
