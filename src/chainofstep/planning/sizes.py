"""How many rows a plan counts with, and how long they are."""

from dataclasses import dataclass

from chainofstep.pipeline.recipe import Recipe
from chainofstep.recipes.shapes import INTERNVL_8B, INTERNVL_38B, LLAVA_NEXT_8B


@dataclass(frozen=True)
class Lengths:
    """Tokens of an average row. The paper states none of them but the steps; the rest are assumptions."""

    question: int = 150
    picture: int = 800  # Qwen: a picture of 900 x 900 pixels
    chain: int = 450
    answer: int = 30
    steps: float = 6.2  # of the SFT model's chains (paper Fig. 6)

    @property
    def prompt(self) -> int:
        return self.question + self.picture

    @property
    def row(self) -> int:
        return self.prompt + self.chain

    @property
    def continuation(self) -> float:
        """Tokens sampled to label a chain with one continuation of each step: what comes after it, and the answer."""
        step = (self.chain - self.answer) / self.steps
        return step * self.steps * (self.steps - 1) / 2 + self.steps * self.answer


#: By policy: five tiles of 256 on average, of seven at most; LLaVA-NeXT's whole and four tiles less their padding.
LENGTHS = {
    INTERNVL_8B: Lengths(picture=1280),
    INTERNVL_38B: Lengths(picture=1280),
    LLAVA_NEXT_8B: Lengths(picture=2200),
    "": Lengths(question=40, picture=36, chain=130, answer=6, steps=3.4),  # the generated problems
}


@dataclass(frozen=True)
class Sizes:
    """Rows of each stage. What the data will give is not known before; these are as many as the recipe asks for."""

    sft: int
    labels: int  # questions
    labelled_chains: int
    questions: int  # of each round of DPO
    pairs: int  # of each round, at most
    test: int
    lengths: Lengths


def sizes_of(recipe: Recipe) -> Sizes:
    """The rows that a recipe asks for. ValueError where it takes all that the data hold, which a plan cannot know."""
    asked = recipe.problems
    for name, count in (("sft", asked.sft), ("labels", asked.labels), ("dpo", asked.dpo), ("test", asked.test)):
        if not count:
            raise ValueError(
                f"problems.{name}=0 takes all rows there are; for a plan say how many (--set problems.{name}=)"
            )
    return Sizes(
        sft=asked.sft,
        labels=asked.labels,
        labelled_chains=asked.labels * recipe.labels.chains,
        questions=asked.dpo,
        pairs=asked.dpo * recipe.pairs.per_question,
        test=asked.test,
        lengths=LENGTHS.get(recipe.policy, Lengths()),
    )
