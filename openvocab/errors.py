"""Typed errors of the whole house, and the one place where a command-line tool turns them into a sentence."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import NoReturn


class OpenVocabError(Exception):
    """Base of every error raised on purpose by this project."""


class InputError(OpenVocabError, ValueError):
    """A picture, a video or a folder given by the user cannot be used."""


class VocabularyError(OpenVocabError, ValueError):
    """Class names that cannot form a vocabulary."""


class PromptError(OpenVocabError, ValueError):
    """A caption, a span or a token budget that does not work."""


class TextEncoderError(OpenVocabError, ValueError):
    """A text encoder is unknown, or its weights and tokenizer do not belong together."""


class ConfigError(OpenVocabError, ValueError):
    """A config key, value, target or name that does not exist or is not allowed."""


class WeightsError(OpenVocabError, ValueError):
    """A weight file that is missing, unsafe, damaged, or made for another architecture."""


class DataError(OpenVocabError, ValueError):
    """A data set, an annotation file or a record that cannot be used."""


class EvaluationError(OpenVocabError, ValueError):
    """Predictions and ground truth that cannot be compared."""


class MissingDependencyError(OpenVocabError, ImportError):
    """An optional package is not installed; the message says which extra brings it."""


class NonFiniteLossError(OpenVocabError, RuntimeError):
    """A loss became NaN or infinite; raised on every rank, before the optimizer step."""


def missing(package: str, extra: str) -> MissingDependencyError:
    """Return the error for an optional `package` that the extra `extra` installs."""
    return MissingDependencyError(
        f"the package '{package}' is needed for this and is not installed; run: pip install 'openvocab-detectron2[{extra}]'"
    )


def nearest(word: str, candidates: Iterable[str], *, most: int = 3) -> str:
    """Return " Did you mean 'a' or 'b'?" for the closest `candidates`, or an empty string when none is close."""
    import difflib

    close = difflib.get_close_matches(str(word), [str(c) for c in candidates], n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


class ToolParser(argparse.ArgumentParser):
    """The command line of a tool: what is wrong with it becomes a ConfigError, for `cli_main`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def cli_main(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and leave the process with its exit code.

    Errors of this project, and missing or unreadable files, become one sentence on standard error and exit code 2; set
    `OPENVOCAB_DEBUG=1` to see the traceback. Ctrl-C leaves with 130.
    """
    try:
        _quiet()
        code = main() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except (OpenVocabError, OSError) as error:
        if os.environ.get("OPENVOCAB_DEBUG") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _quiet() -> None:
    """Hide what torch tells developers of detectron2, unless warnings were asked for (`python -W`, PYTHONWARNINGS)."""
    if sys.warnoptions or os.environ.get("OPENVOCAB_DEBUG") == "1":
        return
    for kind in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=kind, module=r"torch(\.|$)")
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
