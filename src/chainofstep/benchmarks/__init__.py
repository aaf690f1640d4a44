"""Published benchmarks by their own rules, and process-reward benchmarks."""

from chainofstep.benchmarks.ai2d import AI2D, AI2D_NO_MASK
from chainofstep.benchmarks.benchmark import Benchmark, Verdict
from chainofstep.benchmarks.chartqa import CHARTQA
from chainofstep.benchmarks.load import Loaded, load
from chainofstep.benchmarks.m3cot import M3COT
from chainofstep.benchmarks.mathvista import MATHVISTA
from chainofstep.benchmarks.mmmu import MMMU
from chainofstep.benchmarks.mmstar import MMSTAR

__all__ = ["BENCHMARKS", "Benchmark", "Loaded", "Verdict", "load"]

#: The six of the paper in the order of its Table 1, then what is none of them.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (MATHVISTA, MMSTAR, MMMU, M3COT, AI2D, CHARTQA, AI2D_NO_MASK)
}
