"""Commands about what is installed: the components, and what to put into a bug report."""

from __future__ import annotations

from pipeline.arguments import Plugins, command
from pipeline.console import show_components
from pipeline.terminal import give, say


@command
def components(*, plugins: Plugins = ()) -> None:
    """List what a recipe can name: losses, networks, optimizers, metrics and the like, and their options.

    Example: fewmask components
    """
    from pipeline.plugins import load_plugins
    from pipeline.runs import REGISTRIES

    load_plugins(plugins)
    give({registry.name: registry.as_dict() for registry in REGISTRIES})
    show_components(REGISTRIES)


@command
def doctor() -> None:
    """Say what a bug report needs: versions, device, threads, memory, disk; no name of a user, a machine or a folder.

    Example: fewmask doctor
    """
    from pipeline.planning.report import describe

    facts = describe()
    give(facts)
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")
