"""Speed of one thread: a program that prints the FLOP/s of float32 matrix products.

A product on several threads ends with the thread that other programs delay most, so it never shows the speed of a busy processor.
A product of a millisecond on one thread is rarely interrupted. The program has its own process because BLAS reads the number of
threads when it is loaded. It uses numpy: torch takes two seconds to import. The products of the training are as fast within 10%,
with AVX-512: those of MKL (Intel Xeon) and of oneDNN (AMD EPYC).
"""

from __future__ import annotations

import time

import numpy as np

ROWS, WIDTH = 128, 1024  # 1 ms at 240 GFLOP/s
BURSTS, PRODUCTS, PAUSE = 10, 4, 0.01  # seconds: a process that has waited is not interrupted at once


def main() -> None:
    """Print the speed of the best product."""
    left, right = np.zeros((ROWS, WIDTH), np.float32), np.zeros((WIDTH, WIDTH), np.float32)
    seconds = []
    for _ in range(BURSTS):
        for _ in range(PRODUCTS):
            start = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - start)
        time.sleep(PAUSE)
    print(2 * ROWS * WIDTH * WIDTH / min(seconds))


if __name__ == "__main__":
    main()
