"""What a language model is asked about replies to MathVista that the quick rules cannot read.

The official script asks GPT with five solved examples; the wording and the examples here are this project's own, so a
score made with it names the model and says which share of the replies needed it.
"""

from chainofstep.benchmarks.letters import lettered
from chainofstep.llm import Prompt
from chainofstep.records import Example

NO_ANSWER = "no answer"
#: Of a longer reply its end is shown: answers stand there, and a model's context has a limit.
LONGEST_REPLY = 8_000  # characters

#: What is asked, with places for `wanted`, `question` and `reply`.
EXTRACTION_PROMPT = f"""\
Below is a question and what somebody replied. Copy out the reply's final answer. Do not solve the question, do not \
correct the reply, and write nothing but the answer, on one line. If the reply comes to no answer, write: {NO_ANSWER}

Question: How many of the lamps are lit?
Wanted: a whole number
Reply: There are nine lamps in two rows. Four in the upper row are dark, so five lamps are lit.
Answer: 5

Question: What share of the visitors came by train?
Wanted: a number with 2 decimal places
Reply: By train came 31 of 124 visitors, which is a quarter of them.
Answer: 0.25

Question: Which bar is the tallest?
(A) Monday
(B) Thursday
(C) Sunday
Wanted: the letter of an option
Reply: Thursday's bar reaches 40, Monday's 35 and Sunday's only 12. Thursday's it is.
Answer: B

Question: Between which two years did the price double?
Wanted: a list in Python's notation
Reply: It stood at 3 in 2004 and at 6 in 2009, so between 2004 and 2009.
Answer: [2004, 2009]

Question: How long is side AC?
Wanted: a whole number
Reply: The picture is too blurred for me to read the lengths.
Answer: {NO_ANSWER}

Question: {{question}}
Wanted: {{wanted}}
Reply: {{reply}}
Answer:"""

_WANTED = {
    "text": "the letter of an option",
    "integer": "a whole number",
    "float": "a number with {places} decimal places",
    "list": "a list in Python's notation",
}


def extraction_prompt(example: Example, reply: str, prompt_id: str) -> Prompt:
    """The prompt that asks for the answer in a reply; the picture is not shown."""
    options = [lettered(example.choices, "({letter}) {choice}")] if example.choices else []
    wanted = _WANTED[example.meta["answer_type"]].format(places=example.meta.get("precision"))
    question = "\n".join([example.question, *options])
    return Prompt(prompt_id, EXTRACTION_PROMPT.format(question=question, wanted=wanted, reply=reply[-LONGEST_REPLY:]))


def answer_in(said: str) -> str | None:
    """The answer in what the model said; "" where it says that there is none, None where it says nothing."""
    answer = said.strip().removeprefix("Answer:").strip()
    return "" if answer.strip('."').casefold() == NO_ANSWER else answer or None
