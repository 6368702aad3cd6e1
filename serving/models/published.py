"""Makes a folder of weights one that plain transformers loads: the modelling code is copied beside them and named in
`config.json`'s `auto_map`, so that `trust_remote_code=True` is all that a reader needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = "head"  # what the head's parameters begin with
HERE = Path(__file__).parent
TEXTS, PICTURES, NETWORKS = "published_texts", "published_pictures", "networks"
PICTURE_TYPE = "raydistill_pictures"  # model_type of a family that transformers has not


def texts(folder: Path, config: str, classes: int, labels: Sequence[str]) -> None:
    """Write the code of a text classifier whose encoder has transformers' config class `config`, and complete the
    folder's `config.json`."""
    source = (HERE / f"{TEXTS}.py").read_text().replace("BertConfig", config)
    (folder / f"{TEXTS}.py").write_text(source)
    at = folder / "config.json"
    told = json.loads(at.read_text()) | _named(classes, labels) | {"architectures": ["TextClassifier"]}
    told["auto_map"] = {"AutoModelForSequenceClassification": f"{TEXTS}.TextClassifier"}
    at.write_text(json.dumps(told, indent=2, sort_keys=True))


def pictures(folder: Path, classes: int, labels: Sequence[str]) -> dict[str, Any]:
    """Write the code of a picture classifier; returns what its `config.json` says of it."""
    source = (HERE / f"{PICTURES}.py").read_text().replace("from serving.models.", "from .")
    (folder / f"{PICTURES}.py").write_text(source)
    (folder / f"{NETWORKS}.py").write_text((HERE / f"{NETWORKS}.py").read_text())
    auto = {"AutoConfig": "PictureConfig", "AutoModelForImageClassification": "PictureClassifier"}
    return {
        "model_type": PICTURE_TYPE, "architectures": ["PictureClassifier"],
        "auto_map": {name: f"{PICTURES}.{own}" for name, own in auto.items()},
    } | _named(classes, labels)  # fmt: skip


def _named(classes: int, labels: Sequence[str]) -> dict[str, Any]:
    names = list(labels) or [f"LABEL_{index}" for index in range(classes)]
    ids = {str(index): name for index, name in enumerate(names)}
    return {"id2label": ids, "label2id": {name: int(index) for index, name in ids.items()}}
