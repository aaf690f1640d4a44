"""A question and a reply as turns of a conversation, in the spellings of several trainers."""

from dataclasses import dataclass

from chainofstep.problems.formats.base import Row, objects_field, text_field, wrong


@dataclass(frozen=True)
class Chat:
    """How a format writes a turn: its two keys, the names of the roles, and the mark of a picture."""

    role: str
    content: str
    user: str
    assistant: str
    mark: str
    system: str = "system"

    def turn(self, role: str, text: str) -> Row:
        return {self.role: role, self.content: text}

    def turns(self, question: str, reply: str | None, system: str | None = None) -> list[Row]:
        first = [] if system is None else [self.turn(self.system, system)]
        last = [] if reply is None else [self.turn(self.assistant, reply)]
        return [*first, self.turn(self.user, question), *last]

    def read(self, row: Row, key: str, reply: bool = True) -> tuple[str | None, str, str]:
        """(system text, question with its marks, reply or "") of a conversation of one question."""
        found = [(text_field(turn, self.role), text_field(turn, self.content)) for turn in objects_field(row, key)]
        system = found.pop(0)[1] if found and found[0][0] == self.system else None
        roles = [role for role, _ in found]
        expected = [self.user, self.assistant] if reply else [self.user]
        if roles != expected:
            raise wrong(key, f"turns of {' and '.join(expected)}", roles)
        return system, found[0][1], found[1][1] if reply else ""


#: The authors' rows and InternVL's (`internvl/train/dataset.py`): a mark ends on a newline.
SHAREGPT = Chat("from", "value", "human", "gpt", "<image>\n")
#: LLaMA-Factory's sharegpt style (`data/mllm_demo.json`).
LLAMA_FACTORY = Chat("from", "value", "human", "gpt", "<image>")
#: ms-swift's standard format (docs, "Custom dataset").
MS_SWIFT = Chat("role", "content", "user", "assistant", "<image>")
