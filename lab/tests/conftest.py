"""Configure Hypothesis for the tests of the lab."""

from hypothesis import HealthCheck, settings

# A busy machine is slow, and these tests do not measure time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
