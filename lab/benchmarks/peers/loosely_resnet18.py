"""The task `resnet18` of the comparison with the peers, as a model of Loosely.

Like the models that Loosely ships, the module imports torchvision at its top. The worker's parent
process therefore imports torchvision once, and a restarted worker need not import it again.
"""

import torchvision  # noqa: F401 - see above

from lab.benchmarks.peers.loosely_model import Infer

__all__ = ["Infer"]
