"""Words in the names of columns that say what a column has: the prompt, the better or the worse answer, scores, ranks, labels."""

from __future__ import annotations

import re
from typing import NamedTuple


class Words(NamedTuple):
    """Words of one meaning. ``words``: English and other words, and single Chinese characters; ``parts``: Chinese words, which
    nothing separates from the rest of a name."""

    words: frozenset[str]
    parts: tuple[str, ...] = ()

    def occur_in(self, name: str) -> bool:
        """Whether the name of a column has one of them."""
        return not self.words.isdisjoint(name_words(name)) or any(part in name for part in self.parts)


def name_words(name: str) -> set[str]:
    """Words, and Chinese characters, of the name of a column: of ``badAnswer`` bad and answer."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[\u4e00-\u9fff]", name)}


def _words(text: str, parts: str = "") -> Words:
    return Words(frozenset(text.split()), tuple(parts.split()))


PROMPT_NAMES = (
    "prompt", "instruction", "question", "query", "input", "inputs", "messages", "conversation", "conversations", "dialogue",
    "dialog", "thread", "chat", "history", "context", "user", "human", "request", "problem", "task", "post", "text", "user_prompt",
    "prompt_text",
    "问题", "提问", "提示", "提示词", "指令", "输入", "对话", "会话", "历史", "上下文",
)  # fmt: skip
PROMPT = _words("prompt question instruction query input user customer", "问题 提问 提示 指令 输入")  # of a longer name
RESPONSE_NAMES = (
    "response", "answer", "completion", "reply", "output", "generation", "model_response", "model_answer", "model_output",
    "assistant", "text", "content", "回答", "答案", "回复", "输出",
)  # fmt: skip
RESPONSE = _words(
    "response answer completion reply output generation assistant bot", "回答 答案 回复 答复 应答 输出"
)  # of a longer name
BETTER = _words(
    "chosen preferred accepted better best good win winner winning positive pos gut gute guter gutes besser bessere buena bueno "
    "mejor bonne bon meilleure meilleur 好 优 佳 选",
    "正例 正样本",
)
NEGATIONS = frozenset(["non", "not", "un", "less", "unpreferred", "不", "非", "未"])
WORSE = _words(
    "rejected dispreferred worse worst bad wrong incorrect lose loser losing negative neg schlecht schlechte schlechter schlechtes "
    "schlechtere mala malo peor mauvaise mauvais pire 差 坏 劣 拒",
    "负例 负样本",
)
NOT_BETTER = Words(WORSE.words | NEGATIONS, WORSE.parts)
# Of an answer and its changed form, where no other word says which is better.
EARLIER = _words("original draft suggested before", "修改前 原始 原回 原答 草稿 初稿")
LATER = _words(
    "edited edit corrected correction revised revision improved rewritten final sent after correct",
    "修改后 改后 改写 修正 修订 更正 润色 编辑后 最终",
)
SCORE = _words(
    "helpfulness star stars rating ratings rated score scores grade grades quality points reward votes upvotes likes clicks wins 评 星"
)
RANK = _words("rank ranks ranking rankings", "排名 名次")  # 1 is the best
VERDICT = _words(
    "winner better best preferred preference choice chosen selected verdict besser bessere gewinner mejor ganador meilleure meilleur gagnant",
    "更好 更优 更佳 较好 胜 偏好 选择 哪个",
)
LABEL = _words("label labels feedback thumb thumbs liked like vote good helpful accepted correct")
