"""Pushes to the Hub, with errors that explain what is wrong and what to do, and never show an access token."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from ..settings import without_tokens

# Beside the model, but not of it: checkpoints, and files of the scripts that name places on this machine.
NOT_PUSHED = ("_*", "checkpoint-*", "settings.json", "trainer_state.json", "training_args.bin")
_LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give hub_token"


class PushError(RuntimeError):
    """Nothing, or not everything, reached the Hub. What is on this machine is as complete as before."""


@contextmanager
def pushing(
    repo_id: str, token: str | bool | None = None, kept: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Turn any error of a push into one clear error.

    Args:
        repo_id: where the push goes, for the message.
        token: the access token, which must not show up in the message.
        kept: the folder that holds everything, for the message.

    Raises:
        PushError: instead of the error; that one is its cause, unless its traceback would show an access token.
    """
    try:
        yield
    except PushError:
        raise
    except Exception as error:
        text = f"could not push to {repo_id}: {reason(error, token)}"
        if kept is not None:
            text += f". Everything is in {os.fspath(kept)}: push again when this is mended"
        whole = "".join(traceback.format_exception(error))
        raise PushError(text) from (error if without_tokens(whole, token) == whole else None)


def reason(error: BaseException, token: str | bool | None = None) -> str:
    """Why a push failed, in words for the person who pushes, without the access token."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = next((text for member in chain if (text := _explanation(member)) is not None), None)
    if text is None:
        text = f"{type(error).__name__}: {error}"
    return without_tokens(" ".join(text.split()), token).rstrip(".")


def _explanation(error: BaseException) -> str | None:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no access token; {_LOG_IN}"
    if isinstance(error, HFValidationError):
        return str(error)
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        message = getattr(error, "server_message", None) or str(error)
        explanations = {
            401: f"the Hub does not accept the access token, or there is none; {_LOG_IN}",
            403: "this access token may not write there; check hub_model_id and the token's permissions",
            404: "there is no such repository, or this access token does not show it",
        }
        return explanations.get(status, f"the Hub answers {status}: {message}") if status else message
    # httpx (huggingface_hub 1) and httpx2 (2) name their errors alike; refused and dropped connections, time-outs
    if type(error).__module__.startswith("httpx") and type(error).__name__ != "LocalProtocolError":
        return f"the Hub cannot be reached ({type(error).__name__}: {error})"
    return None


def prepare_repository(repo_id: str, token: str | bool | None = None, private: bool | None = None) -> str:
    """Make a model repository if there is none, which also tells a wrong token before any work is done.

    Args:
        repo_id: `owner/name`, or `name` for one's own.
        token: access token; by default the one logged in with.
        private: whether a new repository is private; one that exists stays as it is.

    Returns:
        The full id.

    Raises:
        PushError: if the Hub cannot be reached or refuses.
    """
    with pushing(repo_id, token):
        return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True, repo_type="model").repo_id


def files_to_push(folder: str | os.PathLike[str]) -> dict[str, int]:
    """What [`push_folder`] would send, without asking the Hub: look at it before anybody else can.

    Args:
        folder: the model with its tokenizer, code, card, results and pictures.

    Returns:
        The path of each file in the repository, and its size in bytes.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    root = Path(folder)
    if not (root / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no model (config.json) to push")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    sent = filter_repo_objects(names, ignore_patterns=[*NOT_PUSHED, *DEFAULT_IGNORE_PATTERNS])
    return {name: (root / name).stat().st_size for name in sent}


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload of a distilled tagger",
) -> str:
    """Push a student's folder as one commit. Files of the repository that the folder lacks stay as they are.

    Files that reached the Hub before an interruption are not sent again.

    Args:
        folder: the model with its tokenizer, code, card, results and pictures.
        repo_id, token, private: as for [`prepare_repository`].
        revision: branch to push to; by default the main one.
        commit_message: of the commit.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: if the folder holds no model.
        PushError: if the Hub cannot be reached or refuses; the repository is then as it was.
    """
    files_to_push(folder)  # refuses a folder without a model
    full_id = prepare_repository(repo_id, token, private)
    with pushing(full_id, token, folder):
        api = HfApi(token=token)
        api.upload_folder(
            repo_id=full_id,
            folder_path=Path(folder),
            commit_message=commit_message,
            revision=revision,
            ignore_patterns=list(NOT_PUSHED),
        )
        return f"{api.endpoint}/{full_id}"
