"""How the command line tools end: one sentence, an exit code, and nothing that only developers want to read."""

from __future__ import annotations

import sys
import warnings

import pytest

from openvocab.errors import InputError, WeightsError, cli_main, missing, nearest


def ends(main: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli_main(main)
    return left.value.code


def fails_with(error: BaseException) -> object:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("the picture\n  a.jpg is cut\tshort"), "error: the picture a.jpg is cut short\n"),
        (WeightsError("no such file"), "error: no such file\n"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "error: [Errno 2] No such file or directory: 'x.json'\n"),
        (missing("av", "video"), None),
    ],
)
def test_an_error_is_one_sentence(error: Exception, said: str | None, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.delenv("OPENVOCAB_DEBUG", raising=False)
    assert ends(fails_with(error)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ") and captured.out == ""
    assert said is None or captured.err == said


def test_codes(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    assert ends(lambda: None) == 0 and ends(lambda: 3) == 3
    assert ends(fails_with(KeyboardInterrupt())) == 130 and capsys.readouterr().err == "interrupted\n"
    monkeypatch.setenv("OPENVOCAB_DEBUG", "1")
    with pytest.raises(InputError):
        cli_main(fails_with(InputError("shown with its traceback")))


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli_main(lambda: 1 // 0)


BOTH = {"mine", "torch's own"}


@pytest.mark.parametrize(("options", "shown"), [([], BOTH), (["default"], BOTH | {"old", "meshgrid"})])
def test_warnings_for_developers_are_hidden_unless_asked_for(options: list[str], shown: set[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", options)
    monkeypatch.delenv("OPENVOCAB_DEBUG", raising=False)

    def main() -> None:
        for message, kind, module in (
            ("old", FutureWarning, "torch.jit._script"),
            ("torch.meshgrid: in an upcoming release", UserWarning, "torch.functional"),
            ("torch's own", UserWarning, "torch.nn"),
            ("mine", FutureWarning, "torchlike"),
        ):
            warnings.warn_explicit(message, kind, "file.py", 1, module=module)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert ends(main) == 0
    assert {"meshgrid" if "meshgrid" in str(w.message) else str(w.message) for w in heard} == shown


def test_nearest_names() -> None:
    assert nearest("defualt", ["default", "bridge"]) == " Did you mean 'default'?" and nearest("zzz", ["default"]) == ""
