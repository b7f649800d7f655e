"""expcam: which pixels did a decision need, and which channels carried it?

The public names stand in ``__init__.pyi``, where type checkers find them; each is loaded when it is
first used. ``import expcam`` alone loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
