"""BLEU, GLEU and ROUGE of two texts, without anything to download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_tokenize_13a = Tokenizer13a()
_bleu = BLEU(effective_order=True)
_NOT_ROUGE = re.compile(r"[^a-z0-9]+")
LONGEST_GLEU = 4


def words(text: str) -> list[str]:
    """Tokens of BLEU and GLEU: mteval-v13a, as sacrebleu has it; punctuation stands alone, letter case counts."""
    return str(_tokenize_13a(text)).split()


def bleu(given: str, reference: str) -> float:
    """Sentence BLEU of up to four words in [0, 1], as sacrebleu computes it by default with `effective_order`.

    Source:
        Papineni et al. (2002); Post (2018), A Call for Clarity in Reporting BLEU Scores.
    """
    return float(_bleu.sentence_score(given, [reference]).score) / 100


def gleu(given: str, reference: str) -> float:
    """Shared runs of one to four words over the runs of the longer text.

    Source:
        Wu et al. (2016), Google's Neural Machine Translation System, section 4.3: the lesser of precision and recall.
    """
    mine, theirs = words(given), words(reference)
    runs = [(_runs(mine, size), _runs(theirs, size)) for size in range(1, LONGEST_GLEU + 1)]
    shared = sum((a & b).total() for a, b in runs)
    longer = max(sum(a.total() for a, _ in runs), sum(b.total() for _, b in runs))
    return shared / longer if longer else 0.0


def rouge_words(text: str) -> list[str]:
    """Tokens of ROUGE: runs of a–z and 0–9 in lower case; all else divides. No stemming."""
    return [word for word in _NOT_ROUGE.split(text.lower()) if word]


def rouge_n(given: str, reference: str, size: int) -> float:
    """F1 of the shared runs of `size` words.

    Source:
        Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries.
    """
    mine, theirs = _runs(rouge_words(given), size), _runs(rouge_words(reference), size)
    return _f1((mine & theirs).total(), mine.total(), theirs.total())


def rouge_l(given: str, reference: str) -> float:
    """F1 of the longest common subsequence of words; source as `rouge_n`."""
    mine, theirs = rouge_words(given), rouge_words(reference)
    return _f1(_longest_common(mine, theirs), len(mine), len(theirs))


def _runs(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def _f1(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs) if shared else 0.0


def _longest_common(mine: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence; one row of the table at a time."""
    row = [0] * (len(theirs) + 1)
    for word in mine:
        diagonal = 0
        for place, other in enumerate(theirs, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]
