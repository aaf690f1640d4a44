"""The paper's own figures, for the tables that stand beside ours."""

from chainofstep.experiments.experiment import PaperTable

_THREE = ("MathVista", "MMStar", "M3CoT")

TABLE1 = PaperTable(
    ("MathVista", "MMStar", "MMMU", "M3CoT", "AI2D", "ChartQA", "mean"),
    {
        "base": (45.9, 43.1, 36.9, 45.6, 71.5, 69.4, 52.1),
        "SFT": (51.4, 54.7, 39.6, 67.4, 76.1, 75.7, 60.8),
        "DPO round 3": (54.7, 58.9, 41.8, 71.7, 79.2, 79.1, 64.2),
    },
    "LLaVA-NeXT-LLaMA3-8B. InternVL2.5-MPO-8B: 69.4, 71.0, 73.4 (means).",
)
TABLE2 = PaperTable(
    _THREE,
    {
        "SFT": (51.4, 54.7, 67.4),
        "answer score (PRM)": (53.1, 57.3, 69.7),
        "outcome": (53.5, 58.1, 70.0),
        "step and answer scores (PRM)": (54.7, 58.9, 71.7),
    },
)
TABLE3 = PaperTable(
    ("steps, seen", "answers, seen", "steps, unseen", "answers, unseen"),
    {
        "LLaVA-NeXT-8B": (85.1, 90.5, 83.7, 84.7),
        "InternVL-2.5-8B": (None, None, 85.7, 91.1),
        "InternVL-2.5-38B": (None, None, 87.3, 88.7),
    },
)
TABLE4 = PaperTable(
    (*_THREE, "mean"),
    {
        "base": (45.9, 43.1, 45.6, 44.9),
        "no reasoning: SFT": (49.1, 53.9, 62.1, 55.0),
        "no reasoning: + RL (outcome)": (51.5, 56.4, 63.4, 57.1),
        "direct prompt: SFT": (51.2, 54.9, 66.3, 57.5),
        "direct prompt: + RL (outcome)": (53.1, 58.2, 69.3, 60.2),
        "chain of step: SFT": (51.4, 54.7, 67.4, 57.8),
        "chain of step: + RL (PRM)": (54.7, 58.9, 71.7, 61.8),
    },
)
TABLE5 = PaperTable(
    (*_THREE, "mean"),
    {
        "SFT": (51.4, 54.7, 67.4, 57.8),
        "GRPO, outcome": (54.3, 57.9, 71.4, 61.2),
        "GRPO, step and answer scores": (56.3, 59.1, 73.7, 63.0),
    },
)
TABLE9 = PaperTable(
    ("M3CoT", "MathVista", "chosen reward", "rejected reward"),
    {
        "SFT": (67.4, 51.4, None, None),
        "outcome DPO": (70.0, 53.5, -0.07, -0.16),
        "per-step DPO": (64.8, 50.7, -1.39, -3.86),
    },
)
FIGURE3 = PaperTable(
    ("M3CoT",),
    {
        f"{weight / 100:.1f}": (accuracy,)
        for weight, accuracy in zip(
            range(0, 101, 10), (81.3, 82.3, 82.6, 82.5, 82.2, 81.8, 80.9, 80.9, 80.3, 79.4, 74.7), strict=True
        )
    },
    "Read off the figure, to about 0.05.",
)
FIGURE5 = PaperTable(
    ("M3CoT pass@N", "self-consistency", "best-of-N", "beam", "MMStar pass@N", "self-consistency", "best-of-N", "beam"),
    {
        "N = 1": (67.4, 67.4, 67.4, 67.4, 54.7, 54.7, 54.7, 54.7),
        "N = 4": (87.7, 68.5, 78.2, 79.5, 76.1, 51.0, 61.5, 62.1),
        "N = 8": (95.1, 70.7, 81.1, 81.8, 87.7, 52.8, 64.9, 65.4),
        "N = 16": (97.7, 71.1, 82.6, 83.1, 94.9, 56.2, 67.7, 67.9),
        "N = 32": (98.5, 71.5, 83.3, 83.7, 96.5, 59.1, 68.9, 69.3),
        "N = 64": (98.8, 71.6, 83.5, 83.9, 97.1, 59.9, 69.4, 69.9),
    },
    "Its N = 1 is the greedy answer; so is ours.",
)
FIGURE6 = PaperTable(
    ("steps, outcome", "steps, step and answer scores"),
    {
        f"round {number}": steps
        for number, steps in enumerate(
            ((6.22, 6.22), (6.29, 5.48), (6.38, 5.25), (6.37, 5.01), (6.45, 4.96), (6.46, 4.99), (6.55, 5.01))
        )
    },
)
