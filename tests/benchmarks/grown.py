"""Many short texts grown from the shared sets by seeded word substitution, with planted near duplicates.

`python grown.py ROWS` measures the peak memory of the near-duplicate index over that many, in a process of its own.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[3] / "shared/data/text"
SOURCES = ("banking77_train", "clinc150_train", "sst2_train")
PLANTED = 0.1  # share of rows that repeat another one
LEAST_WORDS, LEAST_SUBSTITUTED = 6, 14  # with 14 words one substitution leaves 11 of 15 word pairs: Jaccard 0.73


def bases() -> list[list[str]]:
    """The words of every distinct text of six words and more."""
    import pyarrow.parquet as pq

    texts = [text for name in SOURCES for text in pq.read_table(DATA / f"{name}.parquet")["text"].to_pylist()]
    return [words for words in (text.split() for text in dict.fromkeys(texts)) if len(words) >= LEAST_WORDS]


def blocks(count: int, seed: int, size: int = 10_000) -> Iterator[tuple[list[str], list[int]]]:
    """Blocks of texts and the number of the original each is made from: its own, or that of the text it repeats.

    A grown text is a real one with half of its words replaced by words of other texts. A planted one is an earlier
    grown text of the same block in other case and punctuation, with a word at its end, without its last word, or
    with one word replaced.
    """
    known = bases()
    vocabulary = np.array(sorted({word for words in known for word in words}), object)
    for start in range(0, count, size):
        rng = np.random.default_rng([seed, start])
        here = min(size, count - start)
        originals = here - int(here * PLANTED)
        grown = [_grown(known[(start + row) % len(known)], vocabulary, rng) for row in range(originals)]
        sources = rng.integers(0, originals, here - originals).tolist()
        planted = [_repeated(grown[source], vocabulary, rng) for source in sources]
        order = rng.permutation(here).tolist()
        texts, groups = [*(" ".join(words) for words in grown), *planted], [*range(originals), *sources]
        yield [texts[place] for place in order], [start + groups[place] for place in order]


def _grown(words: list[str], vocabulary: np.ndarray, rng: np.random.Generator) -> list[str]:
    out = list(words)
    places = rng.permutation(len(out))[: -(-len(out) // 2)]
    for place, word in zip(places.tolist(), vocabulary[rng.integers(0, len(vocabulary), len(places))], strict=True):
        out[place] = word
    return out


def _repeated(words: list[str], vocabulary: np.ndarray, rng: np.random.Generator) -> str:
    kind, out = int(rng.integers(0, 4 if len(words) >= LEAST_SUBSTITUTED else 3)), list(words)
    if kind == 0:
        return " ".join(out).upper() + " !"
    if kind == 1:
        out.append(str(rng.choice(vocabulary)))
    elif kind == 2:
        out.pop()
    else:
        out[int(rng.integers(1, len(out) - 1))] = str(rng.choice(vocabulary))
    return " ".join(out)


def found(groups: list[int], dropped: np.ndarray) -> tuple[float, float]:
    """Recall and precision: of a text and its k planted repeats exactly k are to be dropped, whichever."""
    size = np.bincount(groups)
    hits = np.minimum(np.bincount(groups, dropped, len(size)), np.maximum(size - 1, 0)).sum()
    return float(hits / np.maximum(size - 1, 0).sum()), float(hits / max(1, dropped.sum()))


def peak_kib() -> int:
    """Peak resident KiB of this program; `ru_maxrss` would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Print one JSON document: rows, peak resident MiB, the part of it from before the first row, CPU seconds."""
    from jobs.data.filters.minhash import Index, Shape

    bases()
    before = peak_kib()
    index, spent, count = Index(Shape()), 0.0, int(sys.argv[1])
    for texts, _ in blocks(count, 0):
        started = time.process_time()
        index.add(texts)
        spent += time.process_time() - started
    started = time.process_time()
    twin, _ = index.repeats()
    spent += time.process_time() - started
    peak = peak_kib()
    told = {"rows": count, "peak_mib": peak / 1024, "before_mib": before / 1024, "cpu_s": spent}
    sys.stdout.write(json.dumps({**told, "refused": int((twin >= 0).sum())}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
