"""Recipes: table A1 as shipped, and everything that is refused before a model is loaded."""

import json
from pathlib import Path

import pytest
import yaml

from hicom_hf.training.recipe import LearningRates
from hicom_hf.training.recipe_files import check_files
from hicom_hf.training.recipe_reading import (
    SHIPPED_DIR,
    read_recipe,
    recipe_from_dict,
    recipe_path,
    recipe_text,
    shipped_recipes,
)
from hicom_hf.training.trainer_arguments import CONFIGS_DIR
from hicom_hf.training.typed_yaml import load_yaml, set_value

# Paper, table A1; the 1.5B takes the 7B's batches, which is our choice. stage: (batch sizes by model, rates)
TABLE_A1 = {
    "alignment": ({"0.5b": 512, "1.5b": 512, "7b": 512}, LearningRates(compressor=1e-3)),
    "conditional_pretraining": (
        {"0.5b": 512, "1.5b": 256, "7b": 256},
        LearningRates(compressor=1e-4, injection=1e-3),
    ),
    "instruction_tuning": (
        {"0.5b": 512, "1.5b": 256, "7b": 256},
        LearningRates(compressor=1e-5, injection=1e-5, language_model=1e-5),
    ),
}


@pytest.mark.parametrize("size", ["0.5b", "1.5b", "7b"])
@pytest.mark.parametrize("stage", TABLE_A1)
def test_a_shipped_recipe_says_what_table_a1_and_the_release_script_say(stage, size):
    recipe = read_recipe(f"{stage}_{size}")
    batches, rates = TABLE_A1[stage]
    assert (recipe.stage, recipe.batch_size, recipe.learning_rates) == (stage, batches[size], rates)
    assert (recipe.epochs, recipe.precision, recipe.gradient_checkpointing) == (1.0, "bf16", True)
    assert (recipe.data.max_length, recipe.data.num_frames, recipe.max_steps) == (4096, 32, None)
    optimizer = recipe.optimizer
    assert (optimizer.schedule, optimizer.warmup, optimizer.weight_decay) == ("cosine", 0.03, 0.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-8)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_value_of_a_shipped_recipe_tells_its_source_where_it_is_from_the_paper_or_the_release(name):
    lines = (SHIPPED_DIR / f"{name}.yaml").read_text().splitlines()
    for key in ("batch_size", "batch_size_per_device", "epochs", "precision", "  max_length", "  schedule"):
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        assert "#" in line or "lora" in name, line


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_stage_of_a_size_starts_where_the_one_before_ends(name):
    recipe = read_recipe(name)
    before = {"conditional_pretraining": "alignment", "instruction_tuning": "conditional_pretraining"}.get(
        recipe.stage
    )
    if before is not None:
        size = next(size for size in ("0.5b", "1.5b", "7b") if size in name)
        assert recipe.model == f"{read_recipe(f'{before}_{size}').output_dir}/model"


def test_the_recipe_for_24_gb_quantizes_the_llm_and_the_smaller_one_does_not():
    assert read_recipe("instruction_tuning_7b_qlora").lora.quantize == "nf4"
    assert read_recipe("instruction_tuning_1.5b_lora").lora.quantize is None


def test_configs_of_launchers_and_sharding_are_in_the_package_and_can_be_parsed():
    for name in ("fsdp2", "zero2"):
        assert json.loads((CONFIGS_DIR / f"{name}.json").read_text())
    for name in ("ddp", "fsdp2", "zero2", "zero3"):
        assert yaml.safe_load((CONFIGS_DIR / f"accelerate_{name}.yaml").read_text())["compute_environment"]
    assert "UNTESTED" in (CONFIGS_DIR / "accelerate_zero3.yaml").read_text()


# What is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=3", "unknown key batchsize; did you mean batch_size"),
        ("data.frames=3", r"unknown key data.frames; did you mean data.num_frames"),
        ("optimizer.xyz=3", "unknown key optimizer.xyz; the keys here are beta1, beta2"),
        ("batch_size=many", "batch_size must be a whole number, got 'many'"),
        ("batch_size=2.5", "batch_size must be a whole number, got 2.5"),
        ("batch_size=true", "batch_size must be a whole number, got True"),
        ("batch_size=null", "batch_size must be a whole number, got None"),
        ("epochs=long", "epochs must be a number, got 'long'"),
        ("model=3", "model must be a text, got 3"),
        ("gradient_checkpointing=1", "gradient_checkpointing must be true or false, got 1"),
        ("stage=stage1", "stage must be alignment or conditional_pretraining or instruction_tuning, got 'stage1'"),
        ("sharding=zero3", "sharding must be fsdp2 or fsdp2_offload or zero2 or null"),
        ("data.files=[]", "data.files must be a list of texts"),
        ("data=train.json", "data must be a mapping of keys to values"),
        (
            "learning_rates.injection=1e-3",
            "learning_rates.injection must be null: the stage alignment trains compressor",
        ),
        ("learning_rates.compressor=null", "learning_rates.compressor is missing"),
        ("learning_rates.compressor=0", "learning_rates.compressor must be above 0"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("batch_size=33", "batch_size 33 is not a multiple of batch_size_per_device 32"),
        ("max_steps=0", "max_steps must be at least 1"),
        ("epochs=0", "epochs must be above 0"),
        ("data.num_workers=-1", "data.num_workers must be at least 0"),
        ("data.per_turn=true", "data.per_turn must be false in the stage alignment"),
        ("data.fps=1.0", "give one of data.num_frames and data.fps"),
        ("data.num_frames=null", "give one of data.num_frames and data.fps"),
        ("data.num_frames=0", "data.num_frames must be at least 1"),
        ("data.max_frames=8", "data.max_frames is for data.fps"),
        ("data.max_frames=0", "data.max_frames must be at least 1"),
        ("trainer=adamw", "trainer must be a mapping of keys to values, got 'adamw'"),
        ("optimizer.warmup=3", r"optimizer.warmup must be in \[0, 1\)"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must not be negative"),
        ("lora.rank=8", "lora needs the stage instruction_tuning"),
        ("new_injection.local_injection=direct", "new_injection must be null in the stage alignment"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(override, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("alignment_7b", [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.per_turn=false"], "data.per_turn must be true in instruction_tuning"),
        (["data.num_frames=null", "data.fps=0"], "data.fps must be above 0"),
        (["lora.rank=0"], "lora.rank must be at least 1"),
        (["lora.dropout=1.0"], r"lora.dropout must be in \[0, 1\)"),
        (["lora.rank=8", "learning_rates.vision_head=2e-6"], "learning_rates.vision_head must be null with lora"),
        (
            ["lora.rank=8", "learning_rates.injection=null"],
            "give learning_rates.compressor and learning_rates.injection both",
        ),
        (["lora.quantize=nf4"], "sharding must be null with lora.quantize"),
        (
            ["learning_rates.vision_head=1e-6", "data.feature_cache=c"],
            "feature_cache must be null while learning_rates.vision",
        ),
        (["data.feature_cache=c"], "data.feature_cache must be null with sharding"),
        (["eval.files=a.tar"], "eval.files must be JSON, JSONL or mixture files; streams have no end"),
        (["eval.files=a.json", "eval.every=0"], "eval.every must be at least 1"),
        (["eval.files=a.json", "eval.patience=0"], "eval.patience must be at least 1"),
        (["eval.files=a.json", "eval.every=300"], "must be a multiple of eval.every with .*; got 500 and 300"),
        (["eval.files=a.json"], "eval.keep_best must be false with sharding"),
        (["eval.every=100"], "give one of eval.files and eval.share"),
        (["eval.files=a.json", "eval.share=0.1"], "give one of eval.files and eval.share"),
        (["eval.share=1"], "eval.share must be between 0 and 1, got 1"),
        (["eval.share=0.1", "data.files=a.tar", "max_steps=9"], "eval.share must be null with streams"),
        (["eval.share=0.1", "eval.answers=exact", "sharding=fsdp2"], "eval.answers must be null with sharding fsdp2"),
        (["eval.share=0.1", "eval.best_by=score"], "eval.best_by score needs eval.answers"),
        (
            ["eval.files=a.json", "eval.keep_best=false", "eval.patience=2"],
            "eval.patience needs eval.keep_best",
        ),
    ],
)
def test_keys_that_exclude_each_other_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("instruction_tuning_7b", overrides)


def test_missing_keys_are_named():
    with pytest.raises(ValueError, match="missing key output_dir, data, learning_rates, batch_size"):
        recipe_from_dict({"stage": "alignment", "model": "m"})
    values = read_recipe("alignment_7b").to_dict()
    with pytest.raises(ValueError, match=r"missing key data\.files"):
        recipe_from_dict({**values, "data": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "the key 'a' stands there twice"),
        ("a: [", "recipe.yaml: while parsing"),
        ("- a", "is a mapping"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path)


def test_a_recipe_that_is_not_there_is_refused_with_the_shipped_names():
    with pytest.raises(FileNotFoundError, match=r"no recipe 'alignment_70b'.*alignment_7b"):
        recipe_path("alignment_70b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size", "--set takes key=value"),
        (".a=1", "--set takes key=value"),
        ("model.x=1", "'model' is not a mapping"),
    ],
)
def test_a_wrong_override_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("alignment_7b", [override])


# What is read --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E+2", 200.0), ("1.5e3", 1500.0), ("12", 12), ("1e", "1e"), ("7b", "7b")]
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    assert load_yaml(text, "x") == value and type(load_yaml(text, "x")) is type(value)


def test_overrides_reach_any_depth_and_make_sections():
    values = {"data": {"files": ["a"]}, "lora": None}
    for override in ("data.num_frames=8", "lora.rank=4", "model=a=b", "data.media_root="):
        set_value(values, override)
    assert values == {
        "data": {"files": ["a"], "num_frames": 8, "media_root": None},
        "lora": {"rank": 4},
        "model": "a=b",
    }


def test_a_single_file_stands_for_a_list_of_one_and_whole_numbers_for_rates():
    recipe = read_recipe("alignment_7b", ["data.files=a.json", "epochs=2"])
    assert recipe.data.files == ["a.json"] and recipe.epochs == 2.0


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, []) for name in shipped_recipes()), ("alignment_7b", ["eval.share=0.1"])]
)
def test_a_recipe_written_out_and_read_again_is_the_same(name, overrides, tmp_path):
    recipe = read_recipe(name, overrides)
    path = tmp_path / "again.yaml"
    path.write_text(recipe_text(recipe))
    assert read_recipe(path) == recipe


# Files ---------------------------------------------------------------------------------------------------------------------


def test_missing_files_and_a_finished_run_are_refused_by_their_key(tmp_path):
    def check(**values):
        overrides = {"model": tmp_path / "m", "output_dir": tmp_path / "o", "data.files": tmp_path / "d.json"}
        overrides |= {"data.media_root": None, **values}
        check_files(read_recipe("alignment_7b", [f"{k}={'' if v is None else v}" for k, v in overrides.items()]), "r")

    with pytest.raises(FileNotFoundError, match=r"r: model: .* is not the folder of a model"):
        check()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"r: data.files: .*d.json does not exist"):
        check()
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"r: data.files: .*shard-\*.tar does not exist"):
        check(**{"data.files": tmp_path / "shard-*.tar", "max_steps": 1})
    mixture = tmp_path / "m.yaml"
    for entry, message in (
        ("json_path: lost.json", r"data set 1: json_path: .*lost.json does not exist"),
        ("{json_path: d.json, media_root: lost}", r"data set 1: media_root: .*lost is not a folder"),
    ):
        mixture.write_text(f"datasets:\n  - {entry}")
        with pytest.raises(FileNotFoundError, match=rf"r: data.files: .*m.yaml: {message}"):
            check(**{"data.files": mixture})
    mixture.write_text("datasets:\n  - {json_path: d.json, sampling_strategy: frist:3}")
    with pytest.raises(ValueError, match=r"r: data.files: .*m.yaml: data set 1: sampling_strategy must be"):
        check(**{"data.files": mixture})
    mixture.write_text("datasets:\n  - {json_path: d.json, sampling_strategy: first:50%}")
    check(**{"data.files": mixture})
    with pytest.raises(FileNotFoundError, match=r"r: data.media_root: .* is not a folder"):
        check(**{"data.media_root": tmp_path / "videos"})
    with pytest.raises(FileNotFoundError, match=r"r: eval.files: .*lost.json does not exist"):
        check(**{"eval.files": tmp_path / "lost.json"})
    check()
    check(model="hf://someone/hicom")
    (tmp_path / "o" / "model").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"r: output_dir: .*model exists already, so this run has finished"):
        check()


def test_the_readme_beside_the_recipes_has_the_batch_sizes_and_rates_of_the_files():
    table = Path(SHIPPED_DIR / "README.md").read_text()
    for size, label in (("0.5b", "0.5B"), ("1.5b", "1.5B (our choice: the 7B's)"), ("7b", "7B")):
        batches = " | ".join(str(TABLE_A1[stage][0][size]) for stage in TABLE_A1)
        assert f"| batch size, {label} | {batches} |" in table
    assert "| rate of the rest of the compressor | 1e-3 | 1e-4 | 1e-5 |" in table
    assert "| rate of the injection | - (bypassed) | 1e-3 | 1e-5 |" in table


def test_the_media_that_a_recipe_may_read_come_from_the_command_line_too(capsys):
    from hicom_hf.cli.main import main

    command = ["train", "alignment_7b", "--set", "model=runs/init", "--show", "--media", "guarded"]
    assert main([*command, "--allowed-local-media-path", "a", "--allowed-local-media-path", "b: c"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (data["media"], data["allowed_local_media_path"], data["allowed_media_domains"]) == (
        "guarded",
        ["a", "b: c"],
        None,
    )
    assert main(["train", "alignment_7b", "--show", "--allowed-media-domains", "example.org"]) == 1
    assert "go with data.media guarded; open allows all" in capsys.readouterr().err
