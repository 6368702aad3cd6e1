"""Distillation with the teacher beside the student: Hugging Face's Trainer, or TRL's GKD, in an environment of its own.

`python peer_trainer.py trainer|gkd ROWS.npz TEACHER STUDENT BATCH EPOCHS`: before every epoch it waits for a line on
stdin, after it a line on descriptor 3 says its seconds and how many of them the teacher took.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from serving.models import encoder

TEMPERATURE = 4.0


class Rows(torch.utils.data.Dataset):
    """Token ids of one text per row."""

    def __init__(self, path: str) -> None:
        packed = np.load(path)
        self.ids, self.length = packed["ids"], packed["length"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"ids": self.ids[row, : self.length[row]]}


def padded(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """A batch as wide as its longest row."""
    width = max(len(row["ids"]) for row in rows)
    ids, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
    for row, one in enumerate(rows):
        ids[row, : len(one["ids"])], mask[row, : len(one["ids"])] = one["ids"], 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class Online(Trainer):
    """KL to the teacher's answer, which is computed for every batch of every epoch."""

    def __init__(self, teacher: torch.nn.Module, **given: Any) -> None:
        super().__init__(**given)
        self.teacher_model = teacher

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        with torch.no_grad():
            wanted = F.softmax(self.teacher_model(inputs)[0] / TEMPERATURE, -1)
        given = F.log_softmax(model(inputs)[0] / TEMPERATURE, -1)
        loss = F.kl_div(given, wanted, reduction="batchmean") * TEMPERATURE**2
        return (loss, {}) if return_outputs else loss


class Turns(TrainerCallback):
    """One epoch whenever the parent says so."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        self.teacher_s, forward = 0.0, teacher.forward

        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            out = forward(*given, **named)
            self.teacher_s += time.perf_counter() - began
            return out

        teacher.forward = timed

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        sys.stdin.readline()
        self.teacher_s, self.began = 0.0, time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        told = {"seconds": time.perf_counter() - self.began, "teacher_s": self.teacher_s}
        os.write(3, (json.dumps(told) + "\n").encode())


def settings(rows: str, batch: str, epochs: str) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": f"{rows}.out", "use_cpu": True, "per_device_train_batch_size": int(batch),
        "num_train_epochs": int(epochs), "learning_rate": 2e-3, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False, "dataloader_drop_last": True,
        "optim": "adamw_torch_fused",
    }  # fmt: skip


def online(rows: str, teacher: str, student: str, arguments: dict[str, Any]) -> Trainer:
    """The plain Trainer on texts with a class each."""
    return Online(encoder.load(teacher).eval(), model=encoder.load(student), args=TrainingArguments(**arguments),
                 train_dataset=Rows(rows), data_collator=padded)  # fmt: skip


def gkd(rows: str, teacher: str, student: str, arguments: dict[str, Any]) -> Trainer:
    """TRL's GKD off policy (lambda 0) with forward KL (beta 0) on windows of tokens."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collated(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = padded([{"ids": np.array(one["ids"])} for one in batch])
        return made | {"labels": made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)}

    own = Rows(rows)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{student}/tokenizer.json", pad_token="<pad>", eos_token="<eos>"
    )
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (student, teacher)]
    config = GKDConfig(**arguments, lmbda=0.0, beta=0.0, temperature=1.0, bf16=False, gradient_checkpointing=False)
    trainer: Trainer = GKDTrainer(
        model=models[0], teacher_model=models[1], args=config, data_collator=collated, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"ids": [own[row]["ids"].tolist() for row in range(len(own))]}),
    )  # fmt: skip
    return trainer


def main() -> None:
    kind, rows, teacher, student, batch, epochs = sys.argv[1:]
    torch.set_num_threads(1)
    trainer: Any = {"trainer": online, "gkd": gkd}[kind](rows, teacher, student, settings(rows, batch, epochs))
    trainer.add_callback(Turns(trainer.teacher_model))
    trainer.train()


if __name__ == "__main__":
    main()
