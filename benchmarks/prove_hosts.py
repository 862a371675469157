"""Proof that two hosts train together, over a network of their own, and end with the weights of one process.

    sudo python benchmarks/prove_hosts.py
    sudo python benchmarks/prove_hosts.py --quick --json FILE

The hosts are two network namespaces of Linux that only a virtual cable connects (`ip netns`, which needs root). Each
has its own loopback, ports and addresses, and both see one file system, as the hosts of a cluster do. On each,
`torchrun` starts its share of the processes. Each training is repeated with the first process on the other host. The
exit code is 1 where weights or scores differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from runs_fixtures import TINY, digest, make_phantom, state_of, write_recipe  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = ("fewmask-a", "fewmask-b")
ADDRESSES = ("10.117.3.1", "10.117.3.2")
PORT = 29517


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two namespaces, a cable between them, and nothing else."""
    cable = [f"{host[-1]}-cable" for host in HOSTS]
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", cable[0], "netns", HOSTS[0], "type", "veth", "peer", "name", cable[1], "netns", HOSTS[1])
        for host, end, address in zip(HOSTS, cable, ADDRESSES, strict=True):
            for words in (["addr", "add", f"{address}/24", "dev", end], ["link", "set", end, "up"]):
                ip("-n", host, *words)
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False)


def train_on_both(words: list[str], each: int, first: int) -> None:
    """Start `torchrun` on both hosts, with so many processes each; the host ``first`` has process 0."""
    started = []
    for host, name in enumerate(HOSTS):
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", str(each)),
            *("--node_rank", str(int(host != first)), "--master_addr", ADDRESSES[first], "--master_port", str(PORT)),
            *("-m", "fewmask", *words),
        ]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "GLOO_SOCKET_IFNAME": f"{name[-1]}-cable",
        }
        started.append(subprocess.Popen(["ip", "netns", "exec", name, *launcher], env=environment))
    if codes := [code for process in started if (code := process.wait())]:
        raise SystemExit(f"torchrun ended with {codes}")


def main() -> None:
    """Train, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="6 steps, one process a host")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    steps = 6 if options.quick else options.steps
    found = {}
    with tempfile.TemporaryDirectory() as name, two_hosts():
        place = Path(name)
        data = TINY["data"] | {"batch_size": 4, "unlabelled_batch_size": 4, "units": 4}
        dataset = make_phantom(place / "data", labelled=7, unlabelled=3)
        recipe = write_recipe(place, dataset, data=data, max_steps=steps, validate_every=steps)
        words = ["train", str(recipe), "--output"]
        subprocess.run([sys.executable, ROOT / "run.py", *words, place / "alone"], check=True, env=_alone())
        for each in (1,) if options.quick else (1, 2):
            for first in (0, 1):
                run = place / f"{each}-{first}"
                train_on_both([*words, str(run)], each, first)
                same = digest(state_of(run)) == digest(state_of(place / "alone"))
                same &= (run / "cases.csv").read_bytes() == (place / "alone" / "cases.csv").read_bytes()
                found[f"{each} processes a host, the first on {HOSTS[first]}"] = same
    for what, same in found.items():
        print(f"{what}: weights and scores after {steps} steps are {'the same' if same else 'OTHERS'}")
    if options.json:
        options.json.write_text(json.dumps({"steps": steps, "same": found}, indent=2) + "\n")
    sys.exit(not all(found.values()))


def _alone() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    main()
