"""What a folder needs besides weights, so that it loads without `hicom_hf` installed: names, code, pipeline, card; uploads.

transformers copies the code of a model itself. It does not know of several Auto classes, keep a pipeline's file, or fill in a
model card.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from transformers.utils import logging
from transformers.utils.hub import cached_file

from .configuration_hicom import HiComConfig
from .model_card_hicom import CARD_FILE, EXAMPLE_FILE, is_replaceable, write_model_card

logger = logging.get_logger(__name__)

CONFIG_CLASS = "configuration_hicom.HiComConfig"
MODEL_CLASS = "modeling_hicom.HiComForConditionalGeneration"
PROCESSOR_CLASS = "processing_hicom.HiComProcessor"
# Every Auto class gives the model that generates. transformers itself would register one Auto class only.
AUTO_MAP = {
    "AutoConfig": CONFIG_CLASS,
    "AutoProcessor": PROCESSOR_CLASS,
    "AutoModel": MODEL_CLASS,
    "AutoModelForCausalLM": MODEL_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
    "AutoModelForMultimodalLM": MODEL_CLASS,
}
# The pipeline and what it imports.
PIPELINE_FILES = (
    "video_text_to_text.py",
    "answering_hicom.py",
    "pipeline_inputs_hicom.py",
)
MAX_SHARD_SIZE = "5GB"  # our choice: the Hub recommends less than 20 GB per file
EXAMPLE_VIDEO = Path(__file__).resolve().parents[1] / "assets" / "videos" / "shapes_normal.mp4"  # of the package


class HubFolderMixin:
    """`save_pretrained` and `push_to_hub` that make self-contained folders, for the model that generates."""

    config: HiComConfig

    def save_pretrained(
        self, save_directory, *, processor=None, is_main_process: bool = True, push_to_hub: bool = False, **kwargs
    ):
        """As in transformers; the folder also gets the code, the pipeline and a model card.

        The card is README.md, filled in from the config. A README.md that is there already is replaced only if this method
        wrote it and nobody has edited it since.

        Args:
            save_directory: made if it does not exist.
            processor: saved beside the model.
            is_main_process, push_to_hub, **kwargs: as in transformers.
        """
        folder = Path(save_directory)
        hub_arguments = {
            name: kwargs.pop(name) for name in ("repo_id", "commit_message", "create_pr", "private") if name in kwargs
        }
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the model's
        if processor is not None and is_main_process:
            processor.save_pretrained(folder)
        if not is_main_process or _saves_adapters_only(self) or not folder.is_dir():
            return
        copy_pipeline(self, folder)
        copy_example(self, folder)
        write_model_card(self, folder)
        if push_to_hub:
            hub_arguments.setdefault("repo_id", folder.resolve().name)
            upload(folder, token=kwargs.get("token"), **hub_arguments)

    def push_to_hub(self, repo_id: str, *, processor=None, max_shard_size: int | str = MAX_SHARD_SIZE, **kwargs):
        """Upload the model, with code, pipeline and model card, in one commit.

        A model card in the repo is replaced only if it was written here or by transformers and nobody has edited it since.

        Args:
            repo_id: made if it does not exist.
            processor: uploaded in the same commit.
            max_shard_size: of the files with the weights.
            **kwargs: commit_message, commit_description, private, token, revision, create_pr, tags.

        Returns:
            What huggingface_hub says about the commit.
        """
        tags = kwargs.pop("tags", None)
        with TemporaryDirectory() as directory:
            folder = Path(directory)
            self.save_pretrained(folder, processor=processor, max_shard_size=max_shard_size)
            write_model_card(self, folder, name=repo_id, tags=[tags] if isinstance(tags, str) else tags or ())
            return upload(folder, repo_id, **kwargs)


def copy_pipeline(model, folder: Path) -> None:
    """Copy the pipeline's files, which transformers does not count to the model's code."""
    for name in PIPELINE_FILES:
        source = _pipeline_file(model, folder, name)
        if source is None:
            logger.warning(
                f"{name} was found neither beside the model's code nor in {model.config.name_or_path!r}, from where the model "
                f"was loaded: until it is copied into {folder}, pipeline() does not work without hicom_hf installed"
            )
        elif source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)


def copy_example(model, folder: Path) -> None:
    """Copy the example video that the card shows: the package's, or that of the folder or repo that the model came from."""
    source = EXAMPLE_VIDEO if EXAMPLE_VIDEO.is_file() else _file_of_origin(model, folder, EXAMPLE_FILE)
    if source is None:
        logger.warning(f"{EXAMPLE_FILE}, which the model card shows, was not found in {model.config.name_or_path!r}")
    elif source.resolve() != (folder / EXAMPLE_FILE).resolve():
        shutil.copyfile(source, folder / EXAMPLE_FILE)


def upload(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
):
    """Upload a folder in one commit, except for a card that somebody wrote on the Hub."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    keeps_card = not _card_is_replaceable(api, repo_id, revision)
    if keeps_card:
        logger.warning(f"{repo_id}: the model card there was written by hand and stays as it is")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return api.create_commit(
        repo_id=repo_id,
        operations=[
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in paths.items()
            if not (keeps_card and name == CARD_FILE)
        ],
        commit_message=commit_message or "Upload HICom model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def _card_is_replaceable(api: HfApi, repo_id: str, revision: str | None) -> bool:
    try:
        path = api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
    except (EntryNotFoundError, RevisionNotFoundError):  # no card, or an empty repo
        return True
    return is_replaceable(Path(path).read_text(encoding="utf-8"))


def _saves_adapters_only(model) -> bool:
    return getattr(model, "_hf_peft_config_loaded", False)  # set by transformers when it loads an adapter


def _pipeline_file(model, folder: Path, name: str) -> Path | None:
    """A file of the pipeline: in the package, beside this file (remote code), where the weights came from, or in place."""
    here = Path(__file__).parent
    for candidate in (here.parent / "processors" / name, here / name):
        if candidate.is_file():
            return candidate
    return _file_of_origin(model, folder, name)


def _file_of_origin(model, folder: Path, name: str) -> Path | None:
    """A file from where the weights came from, or in place."""
    source = model.config.name_or_path
    if source:
        quietly = {f"_raise_exceptions_for_{case}": False for case in ("missing_entries", "connection_errors")}
        revision = getattr(model.config, "_commit_hash", None)
        try:
            found = cached_file(source, name, revision=revision, **quietly)
        except OSError:  # the folder is no longer there, and there is no such repo
            found = None
        if found is not None:
            return Path(found)
    in_place = folder / name
    return in_place if in_place.is_file() else None
