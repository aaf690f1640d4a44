"""A row of every exchange format, written out by hand, and what each one says."""

import json

from chainofstep.chain import Chain, Step, render
from chainofstep.records import StepScores

# The bytes of one small chain, in the authors' order, and the same with tags and labels.
STEP_ONE = (
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Read<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>It shows 3 – 4.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>Row 2.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>"
)
STEP_TWO = (
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Add<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>3 + 4 = 8.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>Yes.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>"
)
HEAD, BETWEEN, END = "<|reasoning_start|>\n", "\n<|reasoning_proceed|>\n", "\n<|reasoning_end|>\nAnswer:\n"
ANSWER = "<|answer_start|>8<|answer_end|>"
TEXT = HEAD + STEP_ONE + BETWEEN + STEP_TWO + END + ANSWER
TAGGED = HEAD + STEP_ONE + "ки" + BETWEEN + STEP_TWO + "ки" + END + ANSWER + "ки"
LABEL = HEAD + STEP_ONE + "к+и" + BETWEEN + STEP_TWO + "к-и" + END + ANSWER + "к-и"
CHAIN = Chain((Step("Read", "It shows 3 – 4.", "Row 2."), Step("Add", "3 + 4 = 8.", "Yes.")), "8")
REASONING = [
    {"step_name": "Read", "step_thought": "It shows 3 – 4.", "step_reflection": "Row 2."},
    {"step_name": "Add", "step_thought": "3 + 4 = 8.", "step_reflection": "Yes."},
]


def line(row):
    return json.dumps(row, ensure_ascii=False)


def turns(question, reply, system=None):
    first = [{"from": "system", "value": system}] if system else []
    return [*first, {"from": "human", "value": question}, {"from": "gpt", "value": reply}]


def plain(*steps, answer=None):
    return render(Chain(tuple(Step("", step, "") for step in steps), answer))


def completions(rows):
    return [{"completions": row, "human_completion": None, "chosen_completion": 0} for row in rows]


SFT = {"id": "q1", "image": "a.png", "conversations": turns("<image>\nSum of row 2?", TEXT), "length": 51}
PRM = {"id": "q1", "image": "a.png", "conversations": turns("<image>\nSum?", f"{TAGGED}<|split_token|>{LABEL}")}
RAW = {
    "question_id": "q1",
    "image": "a.png",
    "question": "Sum?",
    "reasoning": REASONING,
    "reason_step_num": 2,
    "extract_answer": "8",
    "step_labels": [1, 0.25],
    "answer_label": 0,
}
SCORED = {
    "question_id": 7,
    "image": "a.png",
    "reason_step_num": 2,
    "answer_score": 0.0,
    "extract_answer": "8",
    "step_scores": [0.987, 1.0],
    "reasoning": REASONING,
    "question": "Sum?",
}
DPO = {"image": "a.png", "question": "Sum?", "chosen": TEXT, "rejected": "no chain"}
VISUAL = {
    "image": "a.png",
    "question": "<image>\nSum?",
    "answer": "7",
    "response": "Read 3 and 4.\n\nFinal answer: 7",
    "steps_with_score": [
        {"step": "Read 3 and 4.", "score": 0.75, "num_mc_correct": 12, "num_mc_total": 16},
        {"step": "Final answer: 7", "score": 1.0, "num_mc_correct": 16, "num_mc_total": 16},
    ],
    "num_mc_sequences": 16,
}
VISUAL_CHAT = {
    "id": -1,
    "image": "a.png",
    "conversations": [
        {"from": "system", "value": "Judge."},
        {"from": "human", "value": "### Question:\n<image>\nSum?\n\n### Solution Process:\nRead 3 and 4."},
        {"from": "gpt", "value": "+"},
        {"from": "human", "value": "So it is 8."},
        {"from": "gpt", "value": "-"},
    ],
}
PROCESSED = {
    "image": ["a.png", "b.png"],
    "question": "Sum?",
    "answer": "7",
    "response": {"steps": ["Look.", "Hm.", "Answer: \\boxed{8}"], "process_correctness": [1, 0, -1]},
    "policy_model": "m",
    "data_source": "MMMU",
}
PRM800K = {
    "labeler": "l",
    "question": {"problem": "3+4?", "ground_truth_answer": "7", "pre_generated_answer": "8"},
    "label": {
        "steps": completions(
            [
                [{"text": "Add.", "rating": 1, "flagged": None}, {"text": "Guess.", "rating": -1, "flagged": None}],
                [{"text": "So.", "rating": 0, "flagged": None}],
                [{"text": "It is 7.\n\n# Answer\n\n7", "rating": 1, "flagged": False}],
            ]
        ),
        "total_time": 5,
        "finish_reason": "solution",
    },
}
PROCESSBENCH = {
    "id": "gsm8k-0",
    "generator": "m",
    "problem": "3+4?",
    "steps": ["Add.", "It is 9.", "\\boxed{9}"],
    "final_answer_correct": False,
    "label": 1,
}
TRL = {
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Sum?"}]}],
    "completion": [{"role": "assistant", "content": [{"type": "text", "text": TEXT}]}],
    "images": ["a.png"],
}
TRL_PAIR = {
    "prompt": TRL["prompt"],
    "chosen": TRL["completion"],
    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "no"}]}],
    "images": ["a.png"],
}
STEPWISE = {
    "prompt": "Sum?",
    "completions": [HEAD + STEP_ONE, BETWEEN + STEP_TWO, END + ANSWER],
    "labels": [True, False, False],
}
SWIFT = {
    "messages": [{"role": "user", "content": "<image>Sum?"}, {"role": "assistant", "content": TEXT}],
    "rejected_response": "no",
    "images": ["a.png"],
}
LLAMA = {"conversations": turns("<image>Sum?", TEXT), "images": ["a.png"]}
LLAMA_PAIR = {
    "conversations": turns("<image>Sum?", "")[:1],
    "chosen": {"from": "gpt", "value": TEXT},
    "rejected": {"from": "gpt", "value": "no"},
    "images": ["a.png"],
}
VERL = {
    "data_source": "tables",
    "prompt": [{"role": "user", "content": "<image>Sum?"}],
    "images": [{"image": "a.png"}],
    "reward_model": {"style": "rule", "ground_truth": "B"},
    "extra_info": {"id": "q1", "question": "Sum?", "images": ["a.png"], "answer_kind": "choice", "choices": ["7", "8"]},
}
SWIFT_PROMPT = {
    "id": "q1",
    "messages": [{"role": "user", "content": "<image>Sum?"}],
    "images": ["a.png"],
    "solution": "7",
    "answer_kind": "number",
}
ROWS = {
    "example": {"id": "e", "question": "Sum?", "images": ["a.png"], "answer": "7", "answer_kind": "number"},
    "text": TEXT,
    "labels": {"steps": [1.0, 0.5], "answer": None},
}
ALL = [
    ("sharegpt-step", SFT, TEXT, None),
    ("prm-train", PRM, TEXT, StepScores((1.0, 0.0), 0.0)),
    ("prm-raw", RAW, TEXT, StepScores((1.0, 0.25), 0.0)),
    ("prm-scored", SCORED, TEXT, StepScores((0.987, 1.0), 0.0)),
    ("dpo", DPO, TEXT, None),
    ("visualprm400k", VISUAL, plain("Read 3 and 4.", "Final answer: 7", answer="7"), StepScores((0.75, 1.0))),
    ("visualprm400k-chat", VISUAL_CHAT, plain("Read 3 and 4.", "So it is 8."), StepScores((1.0, 0.0))),
    (
        "visualprocessbench",
        PROCESSED,
        plain("Look.", "Hm.", "Answer: \\boxed{8}", answer="8"),
        StepScores((1.0, 0.5, 0.0)),
    ),
    ("prm800k", PRM800K, plain("Add.", "So.", "It is 7.\n\n# Answer\n\n7", answer="7"), StepScores((1.0, 0.5, 1.0))),
    ("processbench", PROCESSBENCH, plain("Add.", "It is 9.", "\\boxed{9}", answer="9"), StepScores((1.0, 0.0), 0.0)),
    ("trl", TRL, TEXT, None),
    ("trl-preference", TRL_PAIR, TEXT, None),
    ("trl-stepwise", STEPWISE, TEXT, StepScores((1.0, 0.0), 0.0)),
    ("ms-swift", SWIFT, TEXT, None),
    ("llama-factory", LLAMA, TEXT, None),
    ("llama-factory", LLAMA_PAIR, TEXT, None),
    ("verl", VERL, None, None),
    ("ms-swift-prompts", SWIFT_PROMPT, None, None),
    ("rows", ROWS, TEXT, StepScores((1.0, 0.5))),
]
