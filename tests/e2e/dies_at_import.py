"""A model whose module ends the process with exit code 2 when it is imported.

The worker itself exits with this code if its settings are wrong.
"""

import os

os._exit(2)
