"""Leave the registries as they were."""

import sys
from contextlib import contextmanager

from pipeline.plugins import PREFIX
from pipeline.runs import REGISTRIES


@contextmanager
def parts_restored():
    """Take away, at the end, what plugins have registered meanwhile, so that they can be loaded again."""
    before = [dict(registry.components) for registry in REGISTRIES]
    modules = set(sys.modules)
    yield
    for registry, components in zip(REGISTRIES, before, strict=True):
        registry.components.clear()
        registry.components.update(components)
    for name in set(sys.modules) - modules:
        if name.startswith(PREFIX):
            del sys.modules[name]
