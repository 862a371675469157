"""What an N-cut costs, forward and backward, beside other ways to compute one and beside a training step of a U-Net.

    python benchmarks/bench_ncut.py [--quick] [--json FILE] [--device cuda]

Every way is run in turn, round after round, so that a busy moment meets all of them; a figure is the median of the
rounds, and a spread is the quartiles of the ratio within a round. Memory is the growth of a fresh process's peak over
what it holds when its inputs, the gradient's array and the kernel are there; large arrays are given back when freed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets import UNet

from pipeline.losses import ClassMeanNCutLoss, NCutLoss, ncut, ncut_llvm, ncut_pairs, ncut_triton

CASES = [
    # name, size, radius, classes
    ("2-D 256^2 r5 K2", (256, 256), 5, 2),
    ("2-D 256^2 r5 K4", (256, 256), 5, 4),
    ("3-D 64^3 r4 K2", (64,) * 3, 4, 2),
    ("3-D 64^3 r4 K4", (64,) * 3, 4, 4),
    ("3-D 96^3 r4 K2", (96,) * 3, 4, 2),
    ("3-D 96^3 r4 K4", (96,) * 3, 4, 4),
]
UNET = "MONAI UNet step"
# Seconds of one call beyond which a way is run only in the first rounds.
SLOW = 5.0


def unfold_ncut(logits, image, radius, sigma_space, sigma):
    """Exact N-cut by unfolding all neighbours, as public code writes it."""
    p, reach = logits.softmax(1), radius - 1
    axes = range(p.ndim - 2)

    def unfolded(volume):
        padded = F.pad(volume, [reach] * (2 * len(axes)))
        for axis in axes:
            padded = padded.unfold(2 + axis, 2 * reach + 1, 1)
        return padded

    steps = torch.meshgrid(*[torch.arange(-reach, reach + 1.0)] * len(axes), indexing="ij")
    square = sum(step**2 for step in steps)
    space = torch.exp(-square / sigma_space**2) * (square < radius**2)
    here = (..., *[None] * len(axes))
    weights = torch.exp(-((unfolded(image) - image[here]) ** 2) / sigma**2) * space * unfolded(torch.ones_like(image))
    window = tuple(range(-len(axes), 0))
    degree = weights.sum(window)
    ratios = []
    for k in range(p.shape[1]):
        one = p[:, [k]]
        ratios.append(
            (one * (weights * unfolded(one)).sum(window)).flatten(1).sum(1) / (one * degree).flatten(1).sum(1)
        )
    return (p.shape[1] - torch.stack(ratios).sum(0)).mean()


def convolved_class_mean(logits, image, radius, sigma_1=4.0, sigma_2=10.0):
    """The class-mean form with one full convolution a class, as public code writes it."""
    p, dimensions = logits.softmax(1), logits.ndim - 2
    steps = torch.meshgrid(*[torch.arange(-radius, radius + 1.0)] * dimensions, indexing="ij")
    kernel = torch.exp(-sum(step**2 for step in steps) / (2 * sigma_1**2))[None, None]
    convolve = F.conv3d if dimensions == 3 else F.conv2d
    loss = p.shape[1]
    for k in range(p.shape[1]):
        one = p[:, [k]]
        mean = (image * one).flatten(1).mean(1) / (one.flatten(1).mean(1) + 1e-5)
        distance = (image - mean.view(-1, *[1] * (dimensions + 1))) ** 2
        weights = torch.exp(-(distance**2) / sigma_2**2)
        numerator = (one * convolve(one * weights, kernel, padding=radius)).flatten(1).sum(1)
        denominator = (one * convolve(weights, kernel, padding=radius)).flatten(1).sum(1)
        loss = loss - (numerator / (denominator + 1e-6)).abs()
    return loss.mean()


def inputs(size, classes, device="cpu", batch=2):
    """A noisy ball in a box, and logits that half know it."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    labels = (sum(axis**2 for axis in grid) < 0.5).long().expand(batch, *size)
    image = labels[:, None].float() + 0.3 * torch.randn(batch, 1, *size, generator=generator)
    known = F.one_hot(labels, classes).movedim(-1, 1).float()
    logits = 2 * known + torch.randn(batch, classes, *size, generator=generator)
    return logits.to(device).requires_grad_(), image.to(device), labels.to(device)


def our_ways(radius):
    """Every path of ours by name: the function for pair sums that the loss is to take, and the loss."""
    exact, drawn = NCutLoss(radius=radius), NCutLoss(radius=radius, offsets=24)
    ways = {"ours, plain PyTorch": (ncut_pairs.torch_pair_sums, exact)}
    if ncut_llvm.available():
        ways["ours, compiled kernel"] = (ncut_pairs.llvm_pair_sums, exact)
    ways["ours, 24 offsets, plain"] = (ncut_pairs.torch_pair_sums, drawn)
    if ncut_llvm.available():
        ways["ours, 24 offsets, compiled"] = (ncut_pairs.llvm_pair_sums, drawn)
    return ways


def along(path, loss, logits, image):
    """Run a loss forward and backward on a path."""
    ncut.choose_pair_sums = lambda q: path
    logits.grad = None
    loss(logits, image).backward()


def unet_step(size, classes, image, labels):
    """Return a function that trains MONAI's U-Net by one step in float32."""
    network = UNet(len(size), 1, classes, (32, 64, 128, 256), (2, 2, 2), num_res_units=2)
    optimizer = torch.optim.AdamW(network.parameters())

    def step():
        optimizer.zero_grad()
        F.cross_entropy(network(image), labels).backward()
        optimizer.step()

    return step


def ways_of(size, radius, classes):
    """Return every way by name, as functions without arguments."""
    logits, image, labels = inputs(size, classes)

    def peer(function, *options):
        logits.grad = None
        function(logits, image, *options).backward()

    separable = ClassMeanNCutLoss(radius=radius)
    ways = {name: lambda way=way: along(*way, logits, image) for name, way in our_ways(radius).items()}
    ways["class means, separable (ours)"] = lambda: peer(separable)
    ways["class means, full convolution"] = lambda: peer(convolved_class_mean, radius)
    # At 96^3 it would take tens of gigabytes.
    if torch.Size(size).numel() < 500_000:
        ways["exact, by unfold"] = lambda: peer(unfold_ncut, radius, 0.8 * radius, 0.75)
    ways[UNET] = unet_step(size, classes, image, labels)
    return ways


def measure(ways, rounds, synchronize=lambda: None):
    """Return the seconds of each way in each round."""
    seconds = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            if turn > 1 and seconds[name][0] > SLOW:
                continue
            synchronize()
            start = time.perf_counter()
            way()
            synchronize()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds, name, base):
    """Return the median and the quartiles of a way's time over another's in the same round."""
    each = sorted(a / b for a, b in zip(seconds[name], seconds[base], strict=False))
    if len(each) < 2:
        return each * 3
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return [middle, low, high]


def peak_bytes(name, size, radius, classes):
    """Return the growth of the peak of a fresh process by one call."""
    code = f"import bench_ncut as b; b.print_peak({name!r}, {size!r}, {radius}, {classes})"
    # Freed arrays would else stay with the allocator, and the peak would tell of its habits.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def print_peak(name, size, radius, classes):
    """Print the growth of this process's peak; a small call first brings in libraries and kernels."""
    small = tuple(16 for _ in size)
    along(*our_ways(radius)[name], *inputs(small, classes)[:2])
    logits, image, _ = inputs(size, classes)
    logits.grad = torch.zeros_like(logits)  # the gradient of the logits is the caller's
    path, loss = our_ways(radius)[name]
    ncut.choose_pair_sums = lambda q: path
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the inputs
    before = status("VmRSS")
    loss(logits, image).backward()
    print(status("VmHWM") - before)


def status(key):
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def cosines(size, radius, classes):
    """Return the cosine between the gradients of 24 offsets and of all, for the logits, over seeds."""
    ncut.choose_pair_sums = ncut_pairs.choose_pair_sums
    logits, image, _ = inputs(size, classes)
    (exact,) = torch.autograd.grad(NCutLoss(radius=radius)(logits, image), logits)
    found = []
    for seed in range(5):
        torch.manual_seed(seed)
        (drawn,) = torch.autograd.grad(NCutLoss(radius=radius, offsets=24)(logits, image), logits)
        found.append(torch.cosine_similarity(exact.flatten(), drawn.flatten(), dim=0).item())
    return found


def on_cpu(quick):
    """Measure and print everything that needs no device."""
    cases = [(f"{name} (small)", tuple(n // 4 for n in size), r, k) for name, size, r, k in CASES] if quick else CASES
    result = {"machine": machine(), "cases": {}}
    ncut_llvm.compiled.cache_clear()
    start = time.perf_counter()
    along(*our_ways(3)["ours, compiled kernel"], *inputs((8, 8), 2)[:2])
    result["first_call_s"] = time.perf_counter() - start
    print(f"first call of the compiled kernel, import and compilation included: {result['first_call_s']:.2f} s")
    for name, size, radius, classes in cases:
        seconds = measure(ways_of(size, radius, classes), 3 if quick else 5)
        rows = result["cases"][name] = {}
        print(f"\n{name}, batch 2, {torch.get_num_threads()} threads")
        print(f"{'':32}{'ms':>10}{'of a U-Net step':>18}{'quartiles':>16}{'times compiled':>16}")
        for way, times in seconds.items():
            step, own = ratios(seconds, way, UNET), ratios(seconds, way, "ours, compiled kernel")
            rows[way] = {"ms": 1e3 * statistics.median(times), "of_unet_step": step, "times_compiled": own}
            spread = f"{100 * step[1]:.1f}–{100 * step[2]:.1f}"
            print(f"{way:32}{rows[way]['ms']:10.1f}{100 * step[0]:16.1f} %{spread:>16}{own[0]:16.1f}")
    size, classes = cases[-1][1], cases[-1][3]
    result["cosine_24_of_125"] = cosines(size, 4, classes)
    print(
        f"\ngradient of 24 offsets to that of all, cosine over 5 seeds: {min(result['cosine_24_of_125']):.3f} at least"
    )
    result["bytes_a_voxel"] = {}
    voxels = 2 * torch.Size(size).numel()
    for way in our_ways(4):
        for radius in (2, 4, 6):
            value = peak_bytes(way, size, radius, classes) / voxels
            result["bytes_a_voxel"][f"{way}, r{radius}"] = value
            print(f"peak extra memory, {way}, radius {radius}: {value:.0f} bytes a voxel")
    return result


def on_cuda(quick):
    """Measure and print what a CUDA device takes, next to what copying the inputs' bytes takes."""
    size, radius, classes = ((32,) * 3 if quick else (128,) * 3), 4, 3
    logits, image, _ = inputs(size, classes, "cuda")
    exact = NCutLoss(radius=radius)
    ways = {
        "Triton": lambda: along(ncut_pairs.triton_pair_sums, exact, logits, image),
        "plain PyTorch": lambda: along(ncut_pairs.torch_pair_sums, exact, logits, image),
    }
    if not ncut_triton.available():
        del ways["Triton"]
    block = torch.empty(1 << 28, device="cuda")  # 1 GiB
    target = torch.empty_like(block)
    ways["copy of 1 GiB"] = lambda: target.copy_(block)
    seconds = measure(ways, 20, torch.cuda.synchronize)
    result = {"machine": torch.cuda.get_device_name(), "ms": {}}
    print(f"2x1x{'x'.join(map(str, size))}, K = {classes}, r = {radius}, forward and backward, {result['machine']}")
    for way, times in seconds.items():
        result["ms"][way] = 1e3 * statistics.median(times)
        print(f"{way:20}{result['ms'][way]:10.2f} ms  ({1e3 * min(times):.2f}–{1e3 * max(times):.2f})")
    result["copy_gb_s"] = 2 * block.nbytes / 1e6 / result["ms"]["copy of 1 GiB"]
    print(f"copy bandwidth: {result['copy_gb_s']:.0f} GB/s, read and written")
    return result


def machine():
    """Return the processor and what counts of its versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small scans and few rounds: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "bench_ncut: there is no CUDA device here; run it without --device cuda\n")
    result = on_cuda(options.quick) if options.device == "cuda" else on_cpu(options.quick)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
