"""The tables and figures of the paper as experiments: what is asked, and what the paper claims."""

from chainofstep.experiments import paper_figures as paper
from chainofstep.experiments import policies, searches, verifiers
from chainofstep.experiments.experiment import Claim, Curve, Experiment

_ALL = "all"

EXPERIMENTS = (
    Experiment(
        "table1",
        "Table 1: base, SFT and rounds of DPO",
        "The base answers without steps; SFT teaches it chains; three rounds of DPO go by the PRM's scores of its own "
        "samples. Greedy answers to unseen questions, in the four families of generated problems, which stand where "
        "the paper has six benchmarks.",
        policies.table1,
        "policy",
        (
            Claim(
                "SFT on chains is above the base", "+8.7 (LLaVA-NeXT-8B, mean of six)", ("SFT", _ALL), ("base", _ALL)
            ),
            Claim(
                "Three rounds of DPO are above SFT",
                "+3.4 (LLaVA-NeXT-8B, mean of six)",
                ("DPO round 3", _ALL),
                ("SFT", _ALL),
            ),
        ),
        paper.TABLE1,
    ),
    Experiment(
        "table2",
        "Table 2: what DPO is rewarded for",
        "Three rounds of DPO each, from the same SFT model: pairs by the PRM's answer score alone (step weight 0), by "
        "the known outcome, and by step and answer scores (0.2 and 0.8).",
        policies.table2,
        "reward",
        (
            Claim(
                "Step and answer scores are above answer scores alone",
                "+1.7 (mean of three)",
                ("step and answer scores (PRM)", _ALL),
                ("answer score (PRM)", _ALL),
            ),
            Claim(
                "Step and answer scores are above the outcome",
                "+1.2 (mean of three)",
                ("step and answer scores (PRM)", _ALL),
                ("outcome", _ALL),
            ),
            Claim(
                "The outcome is above answer scores",
                "+0.5 (mean of three)",
                ("outcome", _ALL),
                ("answer score (PRM)", _ALL),
            ),
            Claim("Answer scores are above SFT", "+2.2 (mean of three)", ("answer score (PRM)", _ALL), ("SFT", _ALL)),
        ),
        paper.TABLE2,
    ),
    Experiment(
        "table3",
        "Table 3: the PRM's backbone",
        "PRMs trained on the same Monte-Carlo labels from three backbones, against the exact checker: chains of "
        "questions that they were trained on, and of unseen ones. A score above 0.5 says right. The largest differs "
        "from the others in what it has learnt before, not in size alone.",
        verifiers.table3,
        "backbone",
        (
            Claim(
                "The larger backbone is better on steps",
                "+1.6 (InternVL 38B over 8B)",
                ("a backbone that has learnt to check, 1.1M", "steps, unseen"),
                ("the policy's base, 0.8M", "steps, unseen"),
            ),
            Claim(
                "Seen questions are easier than unseen ones",
                "+1.4 (steps, LLaVA-NeXT-8B)",
                ("a backbone that has learnt to check, 1.1M", "steps, seen"),
                ("a backbone that has learnt to check, 1.1M", "steps, unseen"),
            ),
        ),
        paper.TABLE3,
    ),
    Experiment(
        "table4",
        "Table 4: patterns of reasoning",
        "The same questions taught in three ways: the answer alone; all thoughts as one text, without names, "
        "reflections and steps; and chains of steps. Each then goes through three rounds of DPO, by the outcome where "
        "there are no steps to score and by the PRM where there are.",
        policies.table4,
        "pattern",
        (
            Claim(
                "Chains of steps are above one text, after SFT",
                "+0.3",
                ("chain of step: SFT", _ALL),
                ("direct prompt: SFT", _ALL),
            ),
            Claim(
                "One text is above no reasoning, after SFT",
                "+2.5",
                ("direct prompt: SFT", _ALL),
                ("no reasoning: SFT", _ALL),
            ),
            Claim(
                "Chains of steps are above one text, after RL",
                "+1.6",
                ("chain of step: + RL (PRM)", _ALL),
                ("direct prompt: + RL (outcome)", _ALL),
            ),
            Claim(
                "RL gains more on chains of steps than on one text",
                "+4.0 against +2.7",
                ("chain of step: + RL (PRM)", _ALL),
                ("direct prompt: + RL (outcome)", _ALL),
                (("chain of step: SFT", _ALL), ("direct prompt: SFT", _ALL)),
            ),
            Claim(
                "RL gains more on one text than without reasoning",
                "+2.7 against +2.1",
                ("direct prompt: + RL (outcome)", _ALL),
                ("no reasoning: + RL (outcome)", _ALL),
                (("direct prompt: SFT", _ALL), ("no reasoning: SFT", _ALL)),
            ),
        ),
        paper.TABLE4,
    ),
    Experiment(
        "table5",
        "Table 5: GRPO",
        "GRPO from the SFT model, with the outcome as reward and with the path score of the PRM (0.2 and 0.8).",
        policies.table5,
        "policy",
        (
            Claim(
                "The PRM's reward is above the outcome's",
                "+1.8 (mean of three)",
                ("GRPO, step and answer scores", _ALL),
                ("GRPO, outcome", _ALL),
            ),
            Claim("GRPO by outcome is above SFT", "+3.4 (mean of three)", ("GRPO, outcome", _ALL), ("SFT", _ALL)),
        ),
        paper.TABLE5,
        numbers=("steps",),
    ),
    Experiment(
        "table9",
        "Table 9: DPO on single steps",
        "At every step of a beam search on the training questions the best next step is paired with the worst, and the "
        "search goes on from the best: the paper's failed attempt. Beside it one round of DPO by outcome on the same "
        "questions. Rewards are the means of the last quarter of the updates.",
        policies.table9,
        "policy",
        (
            Claim(
                "Outcome DPO is above per-step DPO",
                "+5.2 (M3CoT), +2.8 (MathVista)",
                ("outcome DPO", _ALL),
                ("per-step DPO", _ALL),
            ),
            Claim("SFT is above per-step DPO", "+2.6 (M3CoT), +0.7 (MathVista)", ("SFT", _ALL), ("per-step DPO", _ALL)),
            Claim(
                "Per-step DPO pushes the chosen texts' reward below that of outcome DPO",
                "-1.39 against -0.07",
                ("outcome DPO", "chosen reward"),
                ("per-step DPO", "chosen reward"),
            ),
        ),
        paper.TABLE9,
        numbers=("chosen reward", "rejected reward", "pairs"),
    ),
    Experiment(
        "figure3",
        "Figure 3: the weight of the steps",
        "Best of 16 samples of the SFT model by the path score, at every weight of the steps; the answer's score has "
        "the rest. One pool, scored once.",
        searches.figure3,
        "weight",
        (
            Claim("A weight of 0.2 is above answers alone", "+1.3", ("0.2", "best of 16"), ("0.0", "best of 16")),
            Claim("A weight of 0.2 is above steps alone", "+7.9", ("0.2", "best of 16"), ("1.0", "best of 16")),
        ),
        paper.FIGURE3,
        Curve("Weight of the steps; the answer has the rest", "Accuracy", ("best of 16",)),
    ),
    Experiment(
        "figure5",
        "Figure 5: more samples",
        f"The SFT model on the first {searches.SCALING_QUESTIONS} test questions. Pass@N, self-consistency and "
        "best-of-N take the first N of one pool of 64; beam search samples N next steps at every level, anew for each "
        "N. N = 1 is the greedy answer.",
        searches.figure5,
        "samples",
        (
            Claim(
                "Best of 16 is above self-consistency of 16",
                "+11.5 (M3CoT), +11.5 (MMStar)",
                ("N = 16", "best-of-N"),
                ("N = 16", "self-consistency"),
            ),
            Claim(
                "Beam search is above best-of-N at 16", "+0.5, +0.2", ("N = 16", "beam search"), ("N = 16", "best-of-N")
            ),
            Claim(
                "Beam search is above best-of-N at 64", "+0.4, +0.5", ("N = 64", "beam search"), ("N = 64", "best-of-N")
            ),
            Claim("Best of 64 is above best of 16", "+0.9, +1.7", ("N = 64", "best-of-N"), ("N = 16", "best-of-N")),
        ),
        paper.FIGURE5,
        Curve("N", "Accuracy", ("pass@N", "self-consistency", "best-of-N", "beam search"), log=True),
        numbers=("tokens, best-of-N", "tokens, beam search"),
    ),
    Experiment(
        "figure6",
        "Figure 6: length of chains over six rounds",
        "Mean steps of greedy chains after each round of DPO, by the PRM's scores and by the outcome. The generated "
        "problems need about three steps, and the SFT model was taught some chains that leap: it starts below what a "
        "thorough chain needs, not above it as the paper's model does.",
        policies.figure6,
        "after",
        (
            Claim(
                "By outcome, chains are longer after six rounds than by the PRM",
                "6.55 against 5.01",
                ("round 6", "steps, outcome"),
                ("round 6", "steps, step and answer scores"),
            ),
            Claim(
                "By the PRM, chains get shorter",
                "6.22 to 5.01",
                ("round 0", "steps, step and answer scores"),
                ("round 6", "steps, step and answer scores"),
            ),
        ),
        paper.FIGURE6,
        Curve("Round of DPO", "Mean steps per chain", ("steps, outcome", "steps, step and answer scores")),
        numbers=("steps, outcome", "steps, step and answer scores"),
    ),
)
