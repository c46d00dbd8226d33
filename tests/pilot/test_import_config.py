"""An experiment from another trainer's file: what is mapped, what is ignored, what is refused, and rows that are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import luthier
from luthier.core.errors import DataError, ExperimentError
from luthier.experiment import Experiment
from luthier.pilot.import_config import Imported
from tests.conftest import rows

AXOLOTL: dict[str, Any] = {
    "base_model": "NousResearch/Llama-3.2-1B", "datasets": [{"path": "rows.jsonl", "type": "alpaca"}], "val_set_size": 0.1, "output_dir": "./outputs",
    "adapter": "lora", "lora_model_dir": None, "sequence_len": 2048, "sample_packing": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
    "lora_target_modules": ["gate_proj", "q_proj"], "wandb_project": None, "gradient_accumulation_steps": 2, "micro_batch_size": 2, "num_epochs": 1,
    "optimizer": "adamw_8bit", "lr_scheduler": "cosine", "learning_rate": 0.0002, "bf16": "auto", "tf32": False, "gradient_checkpointing": True,
    "attn_implementation": "flash_attention_2", "loss_watchdog_threshold": 5.0, "warmup_ratio": 0.1, "evals_per_epoch": 4, "weight_decay": 0.01,
    "special_tokens": {"pad_token": "<|end_of_text|>"}, "plugins": ["axolotl.integrations.liger.LigerPlugin"], "liger_rope": True,
}  # fmt: skip
FACTORY: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen3-4B", "trust_remote_code": True, "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
    "lora_target": "all", "dataset": "first,second", "dataset_dir": "data", "template": "qwen3", "cutoff_len": 512, "max_samples": 40, "overwrite_cache": True,
    "output_dir": "saves/x", "logging_steps": 10, "plot_loss": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1e-4,
    "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True, "ddp_timeout": 180000000, "resume_from_checkpoint": None,
}  # fmt: skip


def alpaca(count: int = 60) -> list[dict[str, str]]:
    return [{"instruction": f"what was {number}?", "input": "", "output": row["text"]} for number, row in enumerate(rows(count))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with rows as both trainers lay them out."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alpaca()))
    Path("data").mkdir()
    Path("data/first.json").write_text(json.dumps(alpaca()))
    talks = [
        {"conversations": [{"from": "human", "value": f"tell {number}"}, {"from": "gpt", "value": row["text"]}]}
        for number, row in enumerate(rows(60))
    ]
    Path("data/second.json").write_text(json.dumps(talks))
    pairs = [{"conversations": [{"from": "human", "value": f"{row['text']} {number}"}], "chosen": {"from": "gpt", "value": row["text"]},
              "rejected": {"from": "gpt", "value": "no"}} for number, row in enumerate(rows(60))]  # fmt: skip
    Path("data/pairs.json").write_text(json.dumps(pairs))
    Path("data/texts.jsonl").write_text(
        "".join(json.dumps({"content": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(60)))
    )
    Path("data/dataset_info.json").write_text(json.dumps({
        "first": {"file_name": "first.json"}, "second": {"file_name": "second.json", "formatting": "sharegpt"}, "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "content"}},
        "pairs": {"file_name": "pairs.json", "ranking": True, "formatting": "sharegpt", "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        "tools": {"file_name": "first.json", "columns": {"tools": "tools"}}, "outside": {"file_name": "../../outside.json"}, "hub": {"hf_hub_url": "someone/rows"},
    }))  # fmt: skip
    return tmp_path


def import_file(said: dict[str, Any], **options: Any) -> Imported:
    Path("config.yml").write_text(yaml.safe_dump(said))
    return luthier.import_config("config.yml", **{"out": "experiment.yaml", **options})


def test_an_axolotl_file_becomes_an_experiment(here: Path) -> None:
    found = import_file(AXOLOTL)
    assert (found.trainer, found.refused) == ("axolotl", {})
    made = Experiment.load(here / "experiment.yaml").model_dump()
    assert made["model"]["base"] == "NousResearch/Llama-3.2-1B"
    assert (
        made["adaptation"] | {"kind": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.05, "targets": ("gate_proj", "q_proj")}
        == made["adaptation"]
    )
    assert made["optimizer"] | {"kind": "adamw", "lr": 2e-4, "weight_decay": 0.01, "clip": 1.0} == made["optimizer"]
    assert (made["schedule"]["kind"], made["schedule"]["warmup"], made["seed"]) == ("cosine", 0.1, 42)
    assert (made["training"]["batch_size"], made["training"]["epochs"], made["training"]["dtype"]) == (4, 1.0, "auto")
    assert (made["objective"]["kind"], made["objective"]["max_length"]) == ("chat", 2048)
    assert {"sample_packing", "wandb_project"} & set(found.ignored) == {"sample_packing"}  # what says nothing is not listed
    assert {"plugins", "liger_rope", "gradient_checkpointing", "attn_implementation", "val_set_size", "special_tokens"} <= set(
        found.ignored
    )
    assert found.mapped["seed"] == ("seed", 42, "axolotl's default")
    line = json.loads((here / "experiment.jsonl").read_text().splitlines()[0])
    assert line["messages"][0] == {"role": "user", "content": "what was 0?"}


def test_a_llama_factory_file_becomes_an_experiment_on_the_rows_of_all_its_sets(here: Path) -> None:
    found = import_file(FACTORY)
    assert (found.trainer, found.refused) == ("llamafactory", {})
    made = Experiment.load(here / "experiment.yaml").model_dump()
    assert made["adaptation"] | {"kind": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ("*",)} == made["adaptation"]
    assert made["optimizer"] | {"lr": 1e-4, "weight_decay": 0.0} == made["optimizer"]
    assert (made["training"]["batch_size"], made["training"]["epochs"], made["objective"]["max_length"]) == (8, 3.0, 512)
    assert "trust_remote_code" in found.ignored and found.ignored["trust_remote_code"] == "code that comes with a model is never run"
    assert len((here / "experiment.jsonl").read_text().splitlines()) == 80  # 40 of each


def test_an_imported_experiment_is_trained_to_a_bundle(here: Path, bases) -> None:
    import_file(FACTORY, base=str(bases("llama").folder))
    run = luthier.train("experiment.yaml", out="runs/one", set=["training.steps=2", "adaptation.rank=2"], force=True)
    assert run.verdict is not None and (run.folder / "bundle" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    "changes, task, field, value",
    [
        ({"stage": "dpo", "dataset": "pairs", "pref_beta": 0.3}, "preference", "beta", 0.3),
        ({"stage": "dpo", "dataset": "pairs", "pref_loss": "ipo"}, "preference", "loss", "ipo"),
        ({"stage": "pt", "dataset": "texts"}, "causal_lm", "context", 512),
    ],
)
def test_other_stages_are_learned_by_their_families(changes: dict[str, Any], task: str, field: str, value: object, here: Path) -> None:
    found = import_file({**FACTORY, **changes})
    assert found.refused == {}
    made = Experiment.load(here / "experiment.yaml").model_dump()
    assert (made["data"]["task"], made["objective"][field]) == (task, value)


@pytest.mark.parametrize(
    "changes, path, value",
    [
        ({"adapter": None}, "adaptation.kind", "full"),
        ({"adapter": "qlora", "load_in_4bit": True}, "adaptation.kind", "lora"),
        ({"lora_target_modules": None, "lora_target_linear": True}, "adaptation.targets", ["*"]),
        ({"optimizer": "paged_adamw_32bit"}, "optimizer.kind", "adamw"),
        ({"optimizer": "sgd"}, "optimizer.kind", "sgd"),
        ({"adam_beta2": 0.95}, "optimizer.betas", [0.9, 0.95]),
        ({"lr_scheduler": "constant_with_warmup"}, "schedule.kind", "constant"),
        ({"lr_scheduler": None}, "schedule.kind", "cosine"),
        ({"max_steps": 7}, "training.steps", 7),
        ({"warmup_ratio": None, "warmup_steps": 3, "max_steps": 30}, "schedule.warmup", 0.1),
        ({"warmup_ratio": None}, "schedule.warmup", 0.03),
        ({"learning_rate": "2e-4"}, "optimizer.lr", 2e-4),
        ({"max_grad_norm": 0.3}, "optimizer.clip", 0.3),
        ({"early_stopping_patience": 3}, "training.patience", 3),
        ({"micro_batch_size": None}, "training.batch_size", 2),
    ],
)
def test_a_key_sets_its_field(changes: dict[str, Any], path: str, value: object, here: Path) -> None:
    found = import_file({**AXOLOTL, **changes})
    assert found.refused == {}
    made: Any = Experiment.load(here / "experiment.yaml").model_dump(mode="json")
    for part in path.split("."):
        made = made[part]
    assert made == value


REFUSED: dict[str, dict[str, Any]] = {
    "train_on_inputs": {"train_on_inputs": True},
    "peft_use_dora": {"peft_use_dora": True},
    "lora_modules_to_save": {"lora_modules_to_save": ["embed_tokens"]},
    "lora_target_modules": {"lora_target_modules": ["q_proj", "lm_head"]},
    "tokens": {"tokens": ["<x>"]},
    "special_tokens": {"special_tokens": {"eos_token": "</s>"}},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5},
    "lr_scheduler": {"lr_scheduler": "rex"},
    "optimizer": {"optimizer": "muon"},
    "adapter": {"adapter": "llama-adapter"},
    "plugins": {"plugins": ["axolotl.integrations.liger.LigerPlugin", "mine.Plugin"]},
    "frobnicate": {"frobnicate": 1},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_change_what_is_learned_is_refused_and_nothing_is_written(key: str, here: Path) -> None:
    found = import_file({**AXOLOTL, **REFUSED[key]})
    assert set(found.refused) == {key} and found.refused[key]
    assert found.experiment is None and not (here / "experiment.yaml").exists() and not (here / "experiment.jsonl").exists()
    assert import_file({**AXOLOTL, **REFUSED[key]}, force=True).experiment is not None
    Experiment.load(here / "experiment.yaml")


@pytest.mark.parametrize("key", ["train_on_inputs", "neftune_noise_alpha", "frobnicate", "peft_use_dora"])
@pytest.mark.parametrize("value", [None, "", False, [], {}])
def test_a_key_that_says_nothing_is_neither_refused_nor_listed(key: str, value: object, here: Path) -> None:
    found = import_file({**AXOLOTL, key: value})
    assert found.refused == {} and key not in found.ignored


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "does not hold keys and values"),
        ("- a\n- b\n", "does not hold keys and values"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system ['touch owned']", "is not YAML"),
        ("\x00", "is not YAML"),
        ("name: x\nlr: 3\n", "neither Axolotl's nor LLaMA-Factory's"),
        ("model_name_or_path: x\ntemplate: y\ninfer_backend: z\n", "neither Axolotl's nor LLaMA-Factory's"),
    ],
)
def test_what_is_no_file_of_theirs_gets_one_message(text: str, message: str, here: Path) -> None:
    Path("config.yml").write_text(text)
    with pytest.raises(ExperimentError, match=message):
        luthier.import_config("config.yml")
    assert not Path("owned").exists()


def test_a_missing_or_a_huge_file_gets_one_message(here: Path) -> None:
    with pytest.raises(ExperimentError, match=r"there is no file nothing\.yml"):
        luthier.import_config("nothing.yml")
    Path("huge.yml").write_text("a: b\n" * 300_000)
    with pytest.raises(ExperimentError, match="more than such a file has"):
        luthier.import_config("huge.yml")


def test_an_alias_bomb_is_no_harm(here: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{two}: &{two} [*{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}]\n"
        for one, two in zip("abcdefgh", "bcdefghi")
    )
    Path("config.yml").write_text(bomb + yaml.safe_dump(AXOLOTL))
    found = luthier.import_config("config.yml")
    assert set(found.refused) >= {"i"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"datasets": None}, "names no data set"),
        ({"datasets": [{"type": "alpaca"}]}, "named without a path"),
        ({"datasets": [{"path": "rows.jsonl", "type": "jeopardy"}]}, "rows of the type 'jeopardy' are not known"),
        ({"datasets": [{"path": "rows.jsonl", "type": "alpaca", "split": "train[10:20]"}]}, "only a part of it is named"),
        (
            {"datasets": [{"path": "rows.jsonl", "type": {"field_instruction": "instruction", "format": "<s>{instruction}"}}]},
            "a prompt format of its own",
        ),
        ({"rl": "orpo"}, "learns by 'orpo', which no family here does"),
        ({"reward_model": True}, "learns by 'rm'"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' does not fit optimizer.lr"),
        ({"warmup_ratio": 7}, "warmup_ratio: 7 does not fit schedule.warmup"),
        ({"num_epochs": -1}, "num_epochs: -1 does not fit training.epochs"),
    ],
)
def test_what_cannot_be_meant_is_said(changes: dict[str, Any], message: str, here: Path) -> None:
    with pytest.raises(ExperimentError, match=message.replace("[", r"\[")):
        import_file({**AXOLOTL, **changes})


@pytest.mark.parametrize("value, message", [("a lot", "micro_batch_size"), ([1], "micro_batch_size"), (-3, "micro_batch_size")])
def test_a_count_that_is_none_names_its_key(value: object, message: str, here: Path) -> None:
    with pytest.raises(ExperimentError, match=message):
        import_file({**AXOLOTL, "micro_batch_size": value})


def test_rows_that_are_not_to_be_had_are_named(here: Path) -> None:
    with pytest.raises(DataError, match="there is no file gone"):
        import_file({**AXOLOTL, "datasets": [{"path": "./gone.jsonl", "type": "alpaca"}]})
    with pytest.raises(DataError, match="not to be had"):
        import_file({**AXOLOTL, "datasets": [{"path": "someone/gone", "type": "alpaca"}]})
    with pytest.raises(ExperimentError, match="knows no data set 'frist'") as caught:
        import_file({**FACTORY, "dataset": "frist"})
    assert "did you mean 'first'" in str(caught.value)
    with pytest.raises(ExperimentError, match="has tools"):
        import_file({**FACTORY, "dataset": "tools"})
    with pytest.raises(ExperimentError, match="cannot be read"):
        import_file({**FACTORY, "dataset_dir": "nowhere"})
    with pytest.raises(DataError, match=r"holds no row that can be read so.*messages is not a list of turns"):
        import_file({**AXOLOTL, "datasets": [{"path": "rows.jsonl", "type": "chat_template"}]})
    with pytest.raises(ExperimentError, match="'fast' does not fit"):
        import_file({**AXOLOTL, "learning_rate": "fast"})
    assert sorted(file.name for file in here.iterdir()) == ["config.yml", "data", "rows.jsonl"]  # nothing that a next try would meet
    import_file(AXOLOTL)


def test_a_part_of_the_rows_is_taken_from_their_beginning(here: Path) -> None:
    import_file({**AXOLOTL, "datasets": [{"path": "rows.jsonl", "type": "alpaca", "split": "train[:50%]"}]})
    assert len((here / "experiment.jsonl").read_text().splitlines()) == 30
    import_file({**AXOLOTL, "datasets": [{"path": "rows.jsonl", "type": "alpaca", "split": "train[:40]"}]}, out="two.yaml")
    assert len((here / "two.jsonl").read_text().splitlines()) == 40


def test_rows_outside_of_the_folder_are_read_and_it_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Said:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    outside = here / "elsewhere" / "rows.json"
    outside.parent.mkdir()
    outside.write_text(json.dumps(alpaca()))
    project = here / "project"
    project.mkdir()
    (project / "config.yml").write_text(yaml.safe_dump({**AXOLOTL, "datasets": [{"path": "../elsewhere/rows.json", "type": "alpaca"}]}))
    monkeypatch.chdir(project)
    said: Any = Said()
    luthier.import_config("config.yml", reporter=said)
    assert any("outside of this folder" in line and "elsewhere/rows.json" in line for line in said.lines)


def test_given_rows_and_base_take_the_place_of_the_files(here: Path) -> None:
    found = import_file({**AXOLOTL, "datasets": [{"path": "someone/gone", "type": "alpaca"}]}, data="rows.jsonl", base="smollm2-135m")
    made = Experiment.load(here / "experiment.yaml")
    assert (made.model.base, Path(made.data.path).name, found.rows) == ("smollm2-135m", "rows.jsonl", None)
    assert found.ignored["base_model"] == "--base smollm2-135m takes its place"


def test_an_adapter_that_training_goes_on_from_is_the_base(here: Path) -> None:
    Path("adapter").mkdir()
    found = import_file({**AXOLOTL, "lora_model_dir": "adapter"})
    assert Experiment.load(here / "experiment.yaml").model.base == "adapter"
    assert found.ignored["base_model"] == "lora_model_dir names the base itself"


def test_what_is_there_already_is_not_written_over(here: Path) -> None:
    import_file(AXOLOTL)
    before = (here / "experiment.yaml").read_text()
    with pytest.raises(ExperimentError, match=r"experiment\.yaml is there already"):
        import_file({**AXOLOTL, "learning_rate": 0.1})
    assert (here / "experiment.yaml").read_text() == before
