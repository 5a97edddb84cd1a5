"""A model whose import ends the process with the exit code of wrong settings."""

import os

os._exit(2)
