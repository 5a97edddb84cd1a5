"""Programs with which `infra/scripts/smoke-test.sh` tests a deployment."""
