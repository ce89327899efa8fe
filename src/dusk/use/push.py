"""Publishing a model folder on the hub: weights, tokenizer, card, manifest and report."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint import card_text, open_checkpoint, read_manifest, verify
from dusk.checkpoint.card import CARD_FILE
from dusk.errors import InputError, SettingError, WorkError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MANIFEST, _REPORT = "dusk.json", "report.html"
_NOT_PUBLISHED = ["checkpoints*", "*.partial", "*.writing", "*.bin", "*.pt", "*.pth", ".*", "*/.*", _MANIFEST]


@dataclass(frozen=True)
class PushReport:
    """Where a model was published, and whether everybody sees it."""

    repo: str
    url: str
    commit: str
    private: bool


def push(
    model: str | Path,
    repo: str,
    *,
    report: str | Path | None = None,
    scores: str | Path | None = None,
    public: bool = False,
) -> PushReport:
    """Publish the folder `model` as `repo` (owner/name), which is made if it is not there.

    A new repository is private unless `public`; one that is there keeps its visibility. The folder is verified
    first. `report` is the page of `dusk report`, or a run folder that has one; `scores` is a results file of
    `dusk eval`, whose scores of this model go into the card (`model-index`). What was uploaded is not uploaded
    again, so the same command continues one that was stopped. Paths of this machine are cut from dusk.json to
    their last part. The token is the one of `hf auth login` or HF_TOKEN, and is never printed.

    Raises:
        InputError: no whole model, no such report, a name that is none, or a token that may not write there.
        WorkError: the hub cannot be reached, or refuses.
    """
    if not _REPO.fullmatch(repo):
        raise SettingError(f"{repo!r} names no repository", remedy="It has the form owner/name.")
    if not Path(model).is_dir():
        raise SettingError(f"There is no folder {model}.", remedy="What is pushed is a model folder.")
    folder = open_checkpoint(model).path
    verify(folder).require()
    extras = _manifest_bytes(folder) | _report_bytes(report) | _card_bytes(folder, repo, scores)
    return _uploaded(folder, repo, extras, public=public)


def _uploaded(folder: Path, repo: str, extras: Mapping[str, bytes], *, public: bool) -> PushReport:
    from huggingface_hub import CommitOperationAdd, HfApi  # lazy: 0.3 s
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    hub = HfApi(library_name="dusk")
    try:
        url = hub.create_repo(repo, private=not public, exist_ok=True)
        if extras:
            added = [CommitOperationAdd(name, content) for name, content in extras.items()]
            hub.create_commit(repo, added, commit_message="Where the model comes from")
        left_out = [*_NOT_PUBLISHED, *extras]
        done = hub.upload_folder(
            repo_id=repo, folder_path=folder, ignore_patterns=left_out, commit_message="The model"
        )
        private = bool(hub.model_info(repo).private)
    except LocalTokenNotFoundError as error:
        raise SettingError("the hub needs a token", remedy="`hf auth login`, or set HF_TOKEN.") from error
    except OfflineModeIsEnabled as error:
        raise SettingError("the hub is switched off", remedy="Unset HF_HUB_OFFLINE.") from error
    except Exception as error:  # the errors of a connection are those of whatever HTTP library is in use
        refused = next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)
        if refused is not None:
            raise _refusal(repo, refused.response) from None  # its text may quote what was sent
        raise WorkError(
            f"{repo}: the hub does not answer as it should ({type(error).__name__})",
            remedy="The same command continues; what was uploaded is kept.",
        ) from None
    return PushReport(repo, str(url), str(done.oid), private)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from: an upload that is refused is told as one that failed."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(repo: str, response: Any) -> InputError | WorkError:
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return SettingError(
            f"{repo}: the hub refuses ({status}): no token, or one that may not write there",
            remedy="`hf auth login`, or set HF_TOKEN to a token with the right to write.",
        )
    return WorkError(
        f"{repo}: the hub refuses ({status or 'no answer'})",
        remedy="The same command continues; what was uploaded is kept.",
    )


def _manifest_bytes(folder: Path) -> dict[str, bytes]:
    """dusk.json as it is published."""
    manifest = read_manifest(folder)
    if manifest is None:
        return {}
    text = json.dumps(_without_places(manifest.to_json()), indent=2, ensure_ascii=False)
    return {_MANIFEST: f"{text}\n".encode()}


def _without_places(value: Any) -> Any:
    """The value with paths of this machine cut to their last part."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(item) for item in value]
    if isinstance(value, str) and re.match(r"[/~]|\.\.?/|[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _card_bytes(folder: Path, repo: str, scores: str | Path | None) -> dict[str, bytes]:
    """The card with scores; without them that of the folder is published as it is."""
    if scores is None:
        return {}
    return {CARD_FILE: card_text(folder, scores=Path(scores), title=repo.partition("/")[2]).encode()}


def _report_bytes(report: str | Path | None) -> dict[str, bytes]:
    if report is None:
        return {}
    file = Path(report)
    file = file / _REPORT if file.is_dir() else file
    if not file.is_file():
        raise SettingError(f"There is no report {file}.", remedy="`dusk report` writes one for a run.")
    return {_REPORT: file.read_bytes()}
