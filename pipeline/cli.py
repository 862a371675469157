"""The command line: run one command, and turn an error into one message and an exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from traceback import format_exc

from pipeline.arguments import run_command
from pipeline.bounds import refuse_no_text
from pipeline.collector import import_for_good
from pipeline.console import explained, tell_stop
from pipeline.errors import ElsewhereError, UserError
from pipeline.interruption import Stopped, stoppable
from pipeline.memory import refuse_tight_limit
from pipeline.plugins import blamed
from pipeline.terminal import complain, fail, flush

# The commands that load PyTorch.
COMPUTING = {"plan", "train", "join", "study", "validate", "predict", "evaluate", "compare", "export"}
# They register their commands, in the order of the help.
for name in ("datasets", "training", "results", "machine"):
    import_module(f"pipeline.commands.{name}")


def main() -> None:
    """Run the command that the arguments name; a user's mistake ends in one message and exit code 2.

    What could be done in part ends in one message and exit code 3.
    """
    # Figures are drawn without a screen; a backend that Matplotlib does not know would end the command at its import.
    os.environ.pop("MPLBACKEND", None)
    import_for_good()
    try:
        refuse_no_text(sys.argv[1:])
        if {*sys.argv[1:2]} & COMPUTING and "--help" not in sys.argv:
            refuse_tight_limit()
        with stoppable(), blamed():
            run_command(sys.argv[1:])
    except Stopped as stop:
        tell_stop(stop, trains=sys.argv[1:2] == ["train"])
        sys.exit(stop.code)
    except ElsewhereError as error:
        sys.exit(error.exit_code)
    except Exception as error:
        if (message := explained(error)) is None:
            raise
        if "--verbose" in sys.argv:
            complain(format_exc())
        fail(message, error.exit_code if isinstance(error, UserError) else UserError.exit_code)
    finally:
        flush()
