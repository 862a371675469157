"""Commands in processes of their own, which begin as copies of one that has loaded the libraries: seconds less each."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.commands import training

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 120
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
CONTEXT.set_forkserver_preload(["pipeline.api_training", "pipeline.cli", "monai.data", "monai.networks.nets"])


def fewmask(*words, **environment):
    """Run a command to its end, and return its exit code, output and errors as subprocess does."""
    with tempfile.TemporaryDirectory() as place:
        texts = Path(place, "output"), Path(place, "errors")
        about = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        process = CONTEXT.Process(target=_run, args=([*map(str, words)], about, Path.cwd(), texts))
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"not at its end after {LIMIT_S} s: {words}")
        return subprocess.CompletedProcess(words, process.exitcode, *(text.read_text() for text in texts))


def _run(words, environment, folder, texts):
    for text, descriptor in zip(texts, (1, 2), strict=True):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # The server loaded PyTorch with its own number.
    training.STARTED = time.monotonic()  # The server imported it, perhaps long ago.
    sys.argv = ["fewmask", *words]
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    finally:
        atexit._run_exitfuncs()
