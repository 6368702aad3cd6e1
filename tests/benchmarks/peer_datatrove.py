"""datatrove's MinHash steps over texts, in its own environment: `python peer_datatrove.py TEXTS.json FOLDER`.

Its own defaults (14 buckets of 8 hashes, its English word tokenizer), only with word pairs instead of five words,
since five in a row are rare in short texts. Reading is not timed; signatures, buckets and clusters are.
"""

import itertools
import json
import os
import struct
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.logging import logger


def main() -> None:
    """Print one JSON document: CPU seconds per step, their sum, and the places of the texts that are dropped."""
    logger.remove()
    texts, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    config = MinhashConfig(n_grams=2)
    documents = [Document(text=text, id=str(place)) for place, text in enumerate(texts)]
    signatures, buckets, removed = (str(folder / name) for name in ("signatures", "buckets", "removed"))
    signature = MinhashDedupSignature(signatures, config)
    signature.word_tokenizer.word_tokenize("load it")
    marks = [cpu_s()]
    signature.run(iter(documents), 0, 1)
    marks.append(cpu_s())
    bucket = MinhashDedupBuckets(signatures, buckets, config=config)
    for rank in range(config.num_buckets):
        bucket.run(None, rank, config.num_buckets)
    marks.append(cpu_s())
    MinhashDedupCluster(buckets, removed, config).run(None, 0, 1)
    marks.append(cpu_s())
    dropped = [
        place for file in Path(removed).glob("*.remove") for (place,) in struct.iter_unpack("<I", file.read_bytes())
    ]
    names = ("signatures", "buckets", "clusters")
    steps = {name: after - before for name, (before, after) in zip(names, itertools.pairwise(marks), strict=True)}
    sys.stdout.write(json.dumps({"cpu_s": marks[-1] - marks[0], "steps": steps, "dropped": dropped}))


def cpu_s() -> float:
    """CPU seconds of this process and the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
