"""A module of a model. Its import ends the process with exit code 2.

The worker itself exits with this code if its settings are wrong.
"""

import os

os._exit(2)
