"""What `import pofx` costs beyond torch, and how long `pofx --help` takes.

    python benchmarks/import_time.py [repeats]

Fresh processes in turn; CPU seconds (user and system) and wall seconds, the least of the repeats, for others can
only add to them. `pofx --help` must not import torch.
"""

import os
import subprocess
import sys
import time

WAYS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import pofx": ["-c", "import torch, pofx"],
    "import pofx, and every public name": ["-c", "import pofx; [getattr(pofx, n) for n in pofx.__all__]"],
    "pofx --help": ["-m", "pofx.cli", "--help"],
}


def timed(words):
    """(CPU seconds, wall seconds) of a fresh process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, time.perf_counter() - start


def main(repeats=5):
    times = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, words in WAYS.items():
            times[name].append(timed(words))
    least = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    for name, (cpu, wall) in least.items():
        print(f"{name:36s} {cpu:6.2f} CPU s {wall:6.2f} s")
    for name in list(WAYS)[2:4]:
        print(f"{name}, beyond torch: {least[name][0] - least['import torch'][0]:.2f} CPU s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
