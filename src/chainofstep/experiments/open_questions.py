"""What the paper left open, as experiments (its limitations, and what it does not state)."""

from chainofstep.experiments import policies, searches, verifiers
from chainofstep.experiments.experiment import Claim, Curve, Experiment

EXPERIMENTS = (
    Experiment(
        "parts",
        "Open: what name, thought and reflection are good for",
        "SFT on the same chains with one part of every step left empty. A chain is counted as true where everything it "
        "says of the picture can be read and is so by the exact checker.",
        policies.parts,
        "steps with",
        (
            Claim(
                "Whole steps are above steps without the reflection",
                "",
                ("whole step", "right answers"),
                ("without the reflection", "right answers"),
            ),
            Claim(
                "The reflection makes chains truer",
                "",
                ("whole step", "chains without a false claim"),
                ("without the reflection", "chains without a false claim"),
            ),
            Claim(
                "Whole steps are above steps without the thought",
                "",
                ("whole step", "right answers"),
                ("without the thought", "right answers"),
            ),
            Claim(
                "Whole steps are above steps without the name",
                "",
                ("whole step", "right answers"),
                ("without the name", "right answers"),
            ),
        ),
        numbers=("tokens",),
    ),
    Experiment(
        "noise",
        "Open: noise of Monte-Carlo labels",
        f"Every step of one chain of {verifiers.NOISE_QUESTIONS} questions is continued 256 times, and the first 1, 2, "
        "4, ... of them are made a label: hard where any, or more than half, of them come right, soft as their share. "
        "The truth is the exact checker's. The label asks whether the policy can still answer rightly from here, and "
        "the checker whether the step is true: more rollouts settle the first question, not the second.",
        verifiers.noise,
        "rollouts",
        (
            Claim("16 soft labels rank steps better than 1", "", ("16", "soft: AUC"), ("1", "soft: AUC")),
            Claim("256 soft labels rank steps better than 16", "", ("256", "soft: AUC"), ("16", "soft: AUC")),
            Claim(
                "With 256 rollouts, more than half is a better rule than any",
                "",
                ("256", "hard: more than half"),
                ("256", "hard: any is right"),
            ),
        ),
        curve=Curve(
            "Rollouts of a step",
            "Agreement with the checker",
            ("hard: any is right", "hard: more than half", "soft: AUC"),
            log=True,
        ),
    ),
    Experiment(
        "judges",
        "Open: judge, Monte-Carlo, or both",
        "The same chains labelled by 16 rollouts a step, by a judge whose errors are set (the exact checker's labels, "
        "a share of them turned over), and by both: chains on which they agree, or their mean. A PRM is trained on "
        "each.",
        verifiers.judges,
        "labels",
        (
            Claim(
                "A judge that errs on 5% labels better than Monte-Carlo",
                "",
                ("judge, wrong on 5%", "right labels"),
                ("Monte-Carlo, 16 rollouts", "right labels"),
            ),
            Claim(
                "Its PRM is better on steps",
                "",
                ("judge, wrong on 5%", "steps, unseen"),
                ("Monte-Carlo, 16 rollouts", "steps, unseen"),
            ),
            Claim(
                "With a judge that errs on 20%, agreement makes a better PRM than the judge alone",
                "",
                ("Monte-Carlo and judge (20%): where they agree", "steps, unseen"),
                ("judge, wrong on 20%", "steps, unseen"),
            ),
        ),
        numbers=("labelled steps",),
    ),
    Experiment(
        "distilled",
        "Open: a smaller PRM",
        "Students trained on the PRM's scores of all chains of three DPO rounds: the PRM's own first two decoder "
        "layers, and a model of a tenth of its size from random weights.",
        verifiers.distilled,
        "PRM",
        (
            Claim(
                "The PRM's best of 16 is above that of its first two layers",
                "",
                ("teacher", "best of 16"),
                ("its first two layers", "best of 16"),
            ),
            Claim(
                "The PRM's best of 16 is above that of a tenth",
                "",
                ("teacher", "best of 16"),
                ("a tenth", "best of 16"),
            ),
        ),
    ),
    Experiment(
        "combined",
        "Open: how step scores become one number",
        "Best of 16 from the same pool and the same scores, by the mean, the smallest, the product and the last of "
        "them.",
        searches.combined,
        "chain's score",
        (
            Claim(
                "0.2 and 0.8 are above the product",
                "",
                ("0.2 mean of steps + 0.8 answer", "best of 16"),
                ("product of steps and answer", "best of 16"),
            ),
            Claim(
                "0.2 and 0.8 are above the smallest",
                "",
                ("0.2 mean of steps + 0.8 answer", "best of 16"),
                ("smallest of steps and answer", "best of 16"),
            ),
        ),
    ),
    Experiment(
        "pairs",
        "Open: the margin t and the number of pairs",
        "One round of DPO from one pool and one set of scores. The paper gives neither t nor which of the 16 samples "
        "are paired; here the best are paired with the worst.",
        policies.pair_choice,
        "pairs with",
        (
            Claim(
                "A margin of 0.3 is above none",
                "",
                ("t = 0.3, 2 a question", "right answers"),
                ("t = 0, 2 a question", "right answers"),
            ),
            Claim(
                "Two pairs a question are above one",
                "",
                ("t = 0.3, 2 a question", "right answers"),
                ("t = 0.3, 1 a question", "right answers"),
            ),
        ),
        numbers=("pairs", "steps"),
    ),
    Experiment(
        "gaming",
        "Open: gaming the PRM",
        "Six rounds of DPO by a weak PRM (from the policy's own base, pairs of any margin, for its scores lie close "
        "together) and by the run's PRM. A round gamed a PRM where that PRM's mean score of the greedy chains rose "
        "over the round before while fewer answers were right: the columns on gaming give the share of seeds.",
        verifiers.gaming,
        "after",
        (
            Claim(
                "Six rounds by the weak PRM raise its own score",
                "",
                ("round 6", "score of the weak PRM"),
                ("round 0", "score of the weak PRM"),
            ),
            Claim(
                "The weak PRM's score gains more than the answers do",
                "",
                ("round 6", "score of the weak PRM"),
                ("round 6", "right, by the weak PRM"),
                (("round 0", "score of the weak PRM"), ("round 0", "right, by the weak PRM")),
            ),
            Claim(
                "Six rounds by the PRM are above six by the weak one",
                "",
                ("round 6", "right, by the PRM"),
                ("round 6", "right, by the weak PRM"),
            ),
        ),
        curve=Curve(
            "Round of DPO",
            "Share",
            ("score of the weak PRM", "right, by the weak PRM", "score of the PRM", "right, by the PRM"),
        ),
    ),
    Experiment(
        "length",
        "Open: length against quality",
        "All samples of the SFT model on the test questions, by their number of steps: how many answer rightly, how "
        "many of their steps are true by the exact checker, and what the PRM thinks of them.",
        searches.length,
        "steps",
        (
            Claim(
                "Chains of three steps answer more rightly than chains of one",
                "",
                ("3", "right answers"),
                ("1", "right answers"),
            ),
            Claim("The PRM prefers three steps to one too", "", ("3", "PRM score"), ("1", "PRM score")),
        ),
        curve=Curve("Steps of a chain", "Share", ("right answers", "true steps", "PRM score")),
    ),
)
