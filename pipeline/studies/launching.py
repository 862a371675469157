"""Run the shares of a command as jobs of a cluster, through submitit, and see them through."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, UserError, first_line
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOGS = "jobs"
# A share whose job dies is given to another job, so often in all.
ATTEMPTS = 3
# A user's mistake, by the exit code of the command: another attempt would end alike.
MISTAKE = 2
# Submitit's own limit of a few minutes is for trying things out.
DEFAULTS = {"timeout_min": 12 * 60}
POLL_S = 1.0


class Share:
    """One share of a command, as submitit starts it in a job."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command, and return its exit code."""
        self.child = subprocess.Popen([sys.executable, "-m", "fewmask", *self.words])
        return _end_of(self.child)

    def checkpoint(self) -> Any:
        """Before the job's time is over or it has to make room: stop the command, which saves, and queue it again."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            self.child.terminate()
            _end_of(self.child)
        return DelayedSubmission(Share(self.words))


def _end_of(child: subprocess.Popen[bytes]) -> int:
    """Wait by polling: a signal handler that interrupted this wait would wait for ever on the lock of `Popen.wait`."""
    while (code := child.poll()) is None:
        time.sleep(POLL_S)
    return code


def launch(words: Sequence[str], shares: int, folder: Path, cluster: str, options: Mapping[str, Any]) -> None:
    """Start a job for each share of a command, wait for all, and repeat those that die.

    Args:
        words: The command's arguments, with which it goes on where it was stopped.
        shares: How many; ``--shard I/N`` is added to each.
        folder: Where the jobs' scripts and logs are written, in a folder ``jobs``.
        cluster: ``slurm``, or ``local``: processes on this machine.
        options: Of submitit's ``update_parameters``, such as ``slurm_partition``.

    Raises:
        UserError: Submitit or the cluster is not there, an option is unknown, or shares have failed, which is raised
            once all others are done.
    """
    executor = _executor(folder / LOGS, cluster, dict(options))
    calls = {place: Share([*words, "--shard", f"{place}/{shares}"]) for place in range(1, shares + 1)}
    with executor.batch():
        jobs = {place: executor.submit(call) for place, call in calls.items()}
    attempts = dict.fromkeys(jobs, 1)
    note(f"{shares} jobs: {', '.join(job.job_id for job in jobs.values())}; their logs are in {folder / LOGS}")
    failed: list[Problem] = []
    while jobs:
        time.sleep(POLL_S)
        for place, job in [(place, job) for place, job in jobs.items() if job.done()]:
            del jobs[place]
            code, trouble = _end_of_job(job)
            if code == 0:
                note(f"{place}/{shares} is done")
            elif attempts[place] < ATTEMPTS and code != MISTAKE:
                jobs[place] = executor.submit(calls[place])
                attempts[place] += 1
                note(f"{place}/{shares}: {trouble}; once more, as job {jobs[place].job_id}")
            else:
                log = str(job.paths.stderr)
                failed.append(Problem(log, "job-failed", f"{place}/{shares} ended with {trouble}", "see this file"))
    if failed:
        raise UserError(f"{len(failed)} of {shares} jobs failed; the others are done.", failed)


def _executor(folder: Path, cluster: str, options: dict[str, Any]) -> Any:
    try:
        import submitit
    except ImportError:
        remedy = "pip install 'fewmask[launcher]'"
        problem = Problem("--launcher", "no-submitit", "needs submitit, which is not installed", remedy)
        raise UserError("Nothing was started.", [problem]) from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**DEFAULTS | options)
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        problem = Problem("--launcher", "no-cluster", first_line(error), "give another, or other options")
        raise UserError("Nothing was started.", [problem]) from None
    return executor


def _end_of_job(job: Any) -> tuple[int | None, str]:
    """Return the exit code of a job's command, None if the job itself has failed, and in words what ended it."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        code = job.result()
    except UncompletedJobError:
        return None, f"a job that was {job.state.lower()}"
    except FailedJobError as error:
        return None, str(error).strip().rpartition("\n")[2] or "an error without a message"
    return code, f"exit code {code}"
