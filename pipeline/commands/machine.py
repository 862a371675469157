"""The command around the machine: what to put into a bug report."""

from __future__ import annotations

from pipeline.arguments import command
from pipeline.terminal import give, say


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
