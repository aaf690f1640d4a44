"""A small run folder whose trees, disagreements and reasons can be worked by hand."""

import json
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from chainofstep.chain import Chain, render
from chainofstep.records import Example, Pair, ScoreFailure, StepScores, to_row
from chainofstep.search import SearchConfig, step_beam
from conftest import ScriptedSampler, ScriptedScorer, make_chain, make_rollout

PICTURE = "problems/test/q-1.png"
Q1 = Example(
    "q-1",
    "What is the sum of row 1?",
    (PICTURE,),
    "10",
    "number",
    source="math/line_sum",
    chain=make_chain("a", answer="10"),
)
Q2 = Example("q-2", "Which side sinks?", (), "left", "word", source="science/lever_tip")

TEN = make_chain("a", "b", answer="10")
TWELVE = make_chain("a", "c", answer="12")
LEFT = make_chain("d", answer="left")
CUT = render(TEN)[: render(TEN).index("b<|")]  # one step is whole, the next one stops in its thought
BROKEN = "<|reasoning_start|> The lever sinks."

POOLS = {"q-1": [render(TEN), render(TEN), render(TWELVE), CUT], "q-2": [render(LEFT), BROKEN]}
NO_CHAIN = ScoreFailure("unparseable: it is no chain")
TEN_SCORES = StepScores((0.9, 0.8), 0.7)
PRM = {
    "q-1": [TEN_SCORES, TEN_SCORES, StepScores((0.9, 0.6), 0.3), NO_CHAIN],
    "q-2": [StepScores((0.2,), 0.9), NO_CHAIN],
}
CHECKER = {
    "q-1": [StepScores((1.0, 1.0), 1.0)] * 2 + [StepScores((1.0, 0.0), 0.0), NO_CHAIN],
    "q-2": [StepScores((1.0,), 1.0), NO_CHAIN],
}


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pool_rows(pools=POOLS):
    return [
        {"id": name, "rollouts": [to_row(make_rollout(text, index, name)) for index, text in enumerate(texts)]}
        for name, texts in pools.items()
    ]


def score_rows(scores):
    return [{"id": name, "scores": [to_row(one) for one in scored]} for name, scored in scores.items()]


def marker(run, stage, **inputs):
    path = run / "stages" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": stage, "inputs": inputs}))


def write_run(run: Path) -> Path:
    """As `cos run` writes one: problems, a pool with scores by PRM and checker, a beam search, a pair."""
    (run / PICTURE).parent.mkdir(parents=True)
    Image.new("RGB", (8, 6), (200, 10, 10)).save(run / PICTURE)
    (run / "recipe.json").write_text("{}")
    write_rows(run / "problems/test.jsonl", [to_row(Q1), to_row(Q2)])
    write_rows(run / "search/pool/rollouts.jsonl", pool_rows())
    marker(run, "search/pool/sample", model="runs/x/models/sft", sampling={"n": 4, "temperature": 1.0})
    for kind, scores in (("prm", PRM), ("checker", CHECKER)):
        write_rows(run / f"search/{kind}/scores.jsonl", score_rows(scores))
        marker(
            run, f"search/{kind}/score", pools="search/pool", scorer={"kind": kind, "model": f"runs/x/models/{kind}"}
        )
    write_rows(run / "search/beam-4-1/results.jsonl", [{"id": "q-1"} | asdict(searched())])
    marker(run, "search/beam-4-1", config={"n": 4, "width": 1})
    write_rows(run / "dpo-1/rollouts.jsonl", pool_rows())
    write_rows(run / "dpo-1/scores.jsonl", score_rows(PRM))
    marker(run, "dpo-1/score", pools="dpo-1", scorer={"kind": "prm", "model": "runs/x/models/prm"})
    pair = Pair("q-1", render(TEN), render(TWELVE), 0.73, 0.39, "best 1 against worst 1, t=0.3, step weight 0.2")
    write_rows(run / "dpo-1/pairs.jsonl", [to_row(pair)])
    return run


def after(chain: Chain, prefix: int = 0) -> str:
    """What a sampler says that goes on with a chain after so many of its steps."""
    return render(chain).removeprefix(render(chain.prefix(prefix)))


def searched():
    """A search of width 1: first the step a (twice), z, and a text that is cut; then b (twice) and c; then answers."""
    other = make_chain("z", answer="10")
    cut = after(TEN)[:40]
    script = {
        render(Chain(())): [after(TEN), after(other), after(TEN), cut],
        render(TEN.prefix(1)): [after(TEN, 1), after(TWELVE, 1), after(TEN, 1), after(TEN, 1)],
        render(TEN.prefix(2)): [after(TEN, 2)],
    }
    scorer = ScriptedScorer({"a": 0.98, "z": 0.31, "b": 0.8, "c": 0.8}, {"10": 0.9, "12": 0.2})
    return step_beam([Q1], ScriptedSampler(script), scorer, SearchConfig(n=4, width=1, max_tokens=5000))[0]
