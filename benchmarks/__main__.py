"""All benchmarks, side by side in one run: `python -m benchmarks`."""

import torch
from benchmarks import rollouts


def main() -> None:
    torch.set_num_threads(2)
    rollouts.main()


if __name__ == "__main__":
    main()
