"""The four world-knowledge sets of paper A2: A-OKVQA, FVQA, TextVQA, SEED-Bench."""

from collections import Counter

from chainofstep.problems.sources.source import (
    Row,
    Source,
    example,
    kept,
    letter_at,
    pictures,
    text,
    texts,
    whole_number,
)
from chainofstep.records import Example

KIND = "world knowledge"


def read_aokvqa(row: Row) -> Example:
    choices, rationales = texts(row, "choices"), texts(row, "rationales")
    published = f"{row.get('split')}2017/{whole_number(row, 'image_id'):012d}.jpg" if "image_id" in row else ""
    return example(
        "aokvqa",
        row,
        identity=("question_id",),
        question=text(row, "question"),
        images=pictures(row, published),
        answer=letter_at(whole_number(row, "correct_choice_idx"), choices),
        choices=choices,
        meta=({"solution": rationales[0]} if rationales else {}) | kept(row, "rationales", "direct_answers"),
    )


def read_fvqa(row: Row) -> Example:
    fact = text(row, "fact_surface", "").replace("[[", "").replace("]]", "").strip()
    return example(
        "fvqa",
        row,
        identity=("question_id", "id"),
        question=text(row, "question"),
        images=pictures(row, f"images/{row['img_file']}" if row.get("img_file") else ""),
        answer=text(row, "answer"),
        meta=({"solution": fact} if fact else {}) | kept(row, "ans_source", "kb_source", "visual_concept"),
    )


def read_textvqa(row: Row) -> Example:
    """Ten people answered; what most of them said is gold, the first of equals."""
    answers = [answer.strip() for answer in texts(row, "answers")]
    counted = Counter(map(str.casefold, answers))
    folder = "test_images" if row.get("set_name") == "test" else "train_images"
    return example(
        "textvqa",
        row,
        identity=("question_id",),
        question=text(row, "question"),
        images=pictures(row, f"{folder}/{row['image_id']}.jpg" if row.get("image_id") else ""),
        answer=max(answers, key=lambda answer: counted[answer.casefold()], default=""),
        meta=kept(row, "answers", "image_classes"),
    )


def read_seed_bench(row: Row) -> Example:
    if row.get("data_type", "image") != "image":
        raise ValueError(f"no picture: the question is about a {row['data_type']}")
    return example(
        "seed_bench",
        row,
        identity=("question_id",),
        question=text(row, "question"),
        images=pictures(row, f"SEED-Bench-image/{row['data_id']}" if row.get("data_id") else ""),
        answer=text(row, "answer"),
        choices=tuple(text(row, f"choice_{letter}") for letter in "abcd"),
        meta=kept(row, "question_type_id"),
    )


SOURCES = (
    Source(
        "aokvqa",
        "A-OKVQA",
        KIND,
        hub="HuggingFaceM4/A-OKVQA",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="not stated",
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=("validation", "test"),
        read=read_aokvqa,
        files=("aokvqa_v1p0_{split}.json", "data/{split}-*.parquet"),
        note="Local pictures are COCO's, in train2017/ and val2017/. The test split has no answers.",
    ),
    Source(
        "fvqa",
        "FVQA",
        KIND,
        hub="",
        splits=("all",),
        train_split="all",
        licence="not stated",
        overlaps=(),
        evaluation_splits=(),
        read=read_fvqa,
        files=("all_qs_dict_release.json",),
        note="The release's folder new_dataset_release. Its five pairs of train and test lists of pictures are not "
        "applied.",
    ),
    Source(
        "textvqa",
        "TextVQA",
        KIND,
        hub="lmms-lab/textvqa",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="CC BY 4.0",  # the card of facebook/textvqa
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=("validation", "test"),
        read=read_textvqa,
        files=("TextVQA_0.5.1_{split}.json", "data/{split}-*.parquet"),
        note="Local pictures: train_images/ (validation too) and test_images/. The test split has no answers.",
    ),
    Source(
        "seed_bench",
        "SEED-Bench",
        KIND,
        hub="lmms-lab/SEED-Bench",
        splits=("test",),
        train_split="test",
        licence="CC BY-NC 4.0",  # the card of AILab-CVC/SEED-Bench
        overlaps=("MMStar",),
        evaluation_splits=(),
        read=read_seed_bench,
        files=("SEED-Bench.json", "data/{split}-*.parquet"),
        note="Itself a benchmark without a training split: do not report results on it after training. Questions "
        "about videos are rejected.",
    ),
)
