"""What word vectors know: the words nearest to a word, analogies, similarities as people judge them, and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.randomness import seed_of

RELATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "woman for man": (
        ("he", "she"), ("him", "her"), ("man", "woman"), ("men", "women"), ("himself", "herself"), ("father", "mother"), ("brother", "sister"),
        ("son", "daughter"), ("husband", "wife"), ("king", "queen"), ("uncle", "aunt"), ("boy", "girl"), ("gentleman", "lady"),
    ),
    "comparative": (
        ("good", "better"), ("bad", "worse"), ("great", "greater"), ("large", "larger"), ("small", "smaller"), ("high", "higher"), ("old", "older"),
        ("young", "younger"), ("strong", "stronger"), ("long", "longer"),
    ),
    "past": (
        ("go", "went"), ("say", "said"), ("see", "saw"), ("come", "came"), ("take", "took"), ("give", "gave"), ("know", "knew"), ("think", "thought"),
        ("make", "made"), ("find", "found"), ("stand", "stood"), ("write", "wrote"),
    ),
    "plural": (
        ("day", "days"), ("year", "years"), ("eye", "eyes"), ("hand", "hands"), ("word", "words"), ("friend", "friends"), ("letter", "letters"),
        ("child", "children"), ("house", "houses"), ("thing", "things"),
    ),
    "opposite": (
        ("good", "bad"), ("old", "young"), ("large", "small"), ("long", "short"), ("high", "low"), ("rich", "poor"), ("early", "late"), ("strong", "weak"),
    ),
}  # fmt: skip
"""A small set of our own: of every two pairs of a relation, the second word of one is to be found from the other pair."""
FEWEST = 20
"""Questions below which no share is given."""
TOGETHER = 256
"""Questions whose answers are looked for at once."""


@dataclass(frozen=True)
class Words:
    """Words with their vectors, scaled to length one.

    Args:
        words: the most frequent first.
        vectors: # (words, width) of float32
    """

    words: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, words: list[str], vectors: np.ndarray) -> Words:
        """Words with vectors of any length; one of zeros stays so."""
        return cls(words, (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32))

    def numbers(self) -> dict[str, int]:
        """Each word's place."""
        return {word: index for index, word in enumerate(self.words)}

    def nearest(self, vector: np.ndarray, count: int, but: Sequence[int] = ()) -> list[tuple[str, float]]:
        """The words whose vectors point most nearly the same way, with the cosines.

        Args:
            vector: # (width,)
            count: of words.
            but: words that are left out.
        """
        cosines = self.vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
        cosines[list(but)] = -np.inf
        count = min(count, len(cosines) - len(set(but)))
        best = np.argpartition(-cosines, max(count - 1, 0))[:count]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [(self.words[index], float(cosines[index])) for index in best]


def own_questions() -> dict[str, list[tuple[str, ...]]]:
    """The small set of our own as questions, by relation."""
    return {name: [(*one, *two) for one, two in permutations(pairs, 2)] for name, pairs in RELATIONS.items()}


def read_questions(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """A file of analogies: four words a line; a line with a colon begins a section.

    Raises:
        DataError: it cannot be read, or a line has another number of words.
    """
    sections: dict[str, list[tuple[str, ...]]] = {}
    section = path.stem
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip() or section
            continue
        words = tuple(line.split())
        if len(words) != 4:
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} holds {len(words)} words", "write four a line: Athens Greece Paris France"
            )
        sections.setdefault(section, []).append(words)
    return sections


def read_similarities(path: Path) -> list[tuple[str, str, float]]:
    """A file of word pairs with a judgement: two words and a number a line.

    Raises:
        DataError: it cannot be read, or a line is something else.
    """
    pairs = []
    for number, line in _lines(path):
        fields = line.replace(",", " ").split()
        try:
            pairs.append((fields[0], fields[1], float(fields[2])))
        except (IndexError, ValueError):
            if number > 1:  # line 1 may hold names
                raise DataError(f"{path}, line {number}: {line[:60]!r} is no pair of words with a number", "write: cup mug 8.5") from None
    return pairs


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path} cannot be read: {problem}", "check the path, and save it as UTF-8") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def answer_analogies(words: Words, questions: Mapping[str, Sequence[tuple[str, ...]]], lowercase: bool) -> list[tuple[str, int, int, int]]:
    """Of each section its name, questions, those whose four words all have a vector, and those of these that are answered rightly.

    The answer to `a is to b as c is to …` is the word nearest to b - a + c, those three left out.

    Args:
        words: with their vectors.
        questions: by section.
        lowercase: whether questions are read in lower case.

    Source: Mikolov, Yih & Zweig 2013, "Linguistic regularities in continuous space word representations", section 5.
    """
    indices, results = words.numbers(), []
    for name, entries in questions.items():
        questions_by_index = [[indices.get(word.lower() if lowercase else word, -1) for word in question] for question in entries]
        table = np.array([row for row in questions_by_index if min(row) >= 0], dtype=np.int64).reshape(-1, 4)
        right = 0
        for start in range(0, len(table), TOGETHER):
            part = table[start : start + TOGETHER]
            sums = words.vectors[part[:, 1]] - words.vectors[part[:, 0]] + words.vectors[part[:, 2]]
            cosines = sums @ words.vectors.T
            np.put_along_axis(cosines, part[:, :3], -np.inf, axis=1)
            right += int((cosines.argmax(1) == part[:, 3]).sum())
        results.append((name, len(entries), len(table), right))
    return results


def compare_similarities(words: Words, pairs: Sequence[tuple[str, str, float]], lowercase: bool) -> tuple[float, int]:
    """The rank correlation of cosines with people's judgements, and how many pairs have vectors."""
    from scipy.stats import spearmanr  # a second to import, and every command looks at all families

    indices = words.numbers()
    pairs_by_index = [
        (indices.get(one.lower() if lowercase else one, -1), indices.get(two.lower() if lowercase else two, -1), judged)
        for one, two, judged in pairs
    ]
    complete = [pair for pair in pairs_by_index if min(pair[:2]) >= 0]
    if len(complete) < 3:
        return float("nan"), len(complete)
    cosines = [float(words.vectors[one] @ words.vectors[two]) for one, two, _ in complete]
    correlation: Any = spearmanr(cosines, [judged for _, _, judged in complete])
    return float(correlation.statistic), len(complete)


def draw_map(words: Words, skip: int, count: int, clusters: int) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Words on a plane, in clusters that are named for the words nearest to their middles.

    Args:
        words: with their vectors.
        skip: the most frequent words that are left out: they stand beside everything.
        count: of words that are drawn.
        clusters: of them.

    Returns:
        For each cluster its name and its words with two coordinates: the first two principal components.
    """
    from sklearn.cluster import KMeans

    skip = skip if len(words.words) >= skip + count else 0
    names, vectors = words.words[skip : skip + count], words.vectors[skip : skip + count].astype(np.float64)
    if len(names) < 4:
        return []
    clusters = max(2, min(clusters, len(names) // 8))
    kind: Any = KMeans
    clustering = kind(clusters, n_init=4, random_state=seed_of("map")).fit(vectors)
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
    plane = centred @ axes.T
    plane = plane / np.maximum(np.abs(plane).max(0), 1e-12)
    groups = []
    for index in range(clusters):
        members = np.flatnonzero(clustering.labels_ == index)
        order = members[np.argsort(-(vectors[members] @ clustering.cluster_centers_[index]), kind="stable")]
        title = ", ".join(names[position] for position in order[:3])
        groups.append((title, [(names[position], float(plane[position, 0]), float(plane[position, 1])) for position in order]))
    return sorted(groups, key=lambda group: -len(group[1]))
