"""tools/claims.py with a paper of its own: numbers in, verdicts out; a stopped run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from openvocab.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAPER = """
from pathlib import Path
from helping import offset
TITLE, SETTING = "A paper", "Numbers out of the air."
ARMS = {"none": "nothing", "full": "everything", "half of it": "in between"}
METRICS = {"top1": "share of right names", "AP": "of boxes"}
CLAIMS = [
    {"text": "everything is better than nothing", "better": ("full", "top1"), "worse": ("none", "top1")},
    {"text": "half is better than everything", "better": ("half of it", "top1"), "worse": ("full", "top1")},
    {"text": "everything finds more", "better": ("full", "AP"), "worse": ("none", "AP")},
]
HELPS = ("none", ["top1"])
FILES = ["helping.py"]


def prepare(work, quick):
    with open(work / "prepared", "a") as file:
        file.write("x")
    return {"work": work, "start": 1.0 if quick else 50.0}


def run(state, arm, seed):
    with open(state["work"] / "runs", "a") as file:
        file.write(f"{arm},{seed};")
    if (state["work"] / "stop").exists() and arm == "full":
        raise KeyboardInterrupt
    value = state["start"] + {"none": 0.0, "full": 10.0, "half of it": 1.0}[arm] + offset * seed
    return {"top1": value} if arm == "half of it" else {"top1": value, "AP": 7.0 - 3.0 * seed * (arm == "full")}
"""


@pytest.fixture
def claims(tmp_path: Path, monkeypatch) -> ModuleType:
    spec = spec_from_file_location("claims_under_test", ROOT / "tools" / "claims.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "made_up.py").write_text(PAPER)
    (tmp_path / "papers" / "helping.py").write_text("offset = 1.0\n")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "papers")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helping", raising=False)
    return module


def run(claims: ModuleType, folder: Path, *options: str) -> dict:
    assert claims.main(["made_up", "--out", str(folder / "out"), "--work", str(folder / "work"), *options]) == 0
    return json.loads((folder / "out" / "made_up.json").read_text())


def test_numbers_become_means_and_sentences(claims: ModuleType, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(claims, "commit", lambda: "abc1234")
    result = run(claims, tmp_path, "--seeds", "3", "--first-seed", "4")
    assert result["seeds"] == [4, 5, 6] and not result["quick"] and "--first-seed 4" in result["command"]
    assert result["arms"]["full"]["top1"] == {"mean": 65.0, "sd": 1.0, "values": [64.0, 65.0, 66.0]}
    assert set(result["arms"]["half of it"]) == {"top1"} and {"machine", "minutes"} <= set(result)
    first, second, third = result["claims"]
    assert first["held"] and first["difference"] == pytest.approx(10) and first["two_sd"] == pytest.approx(2 * 2**0.5)
    assert not second["held"] and second["difference"] == pytest.approx(-9)
    assert not third["held"] and third["difference"] < 0
    page = (tmp_path / "out" / "made_up.md").read_text()
    assert "**Held**: everything is better than nothing: 65.0 ± 1.0 (full, top1) against 55.0 ± 1.0 (none, top1)" in page
    assert "**Did not hold**: half is better than everything" in page and page.count("**Held**") == 1
    assert "full is above; half of it is neither" in page, "an arm that does not help is said to"
    row = next(line for line in page.splitlines() if line.startswith("| half of it"))
    assert [c.strip() for c in row.strip("|").split("|")] == ["half of it", "56.0 ± 1.0", "-"]
    assert result["commits"] == ["abc1234"] and "the code of abc1234." in page
    assert "3 seeds (4, 5, 6)" in page and "quick run" not in page.lower()
    assert "**Held**" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("margin", "held", "why"),
    [
        (10, True, "more than two sd, and at least 10."),
        (10.5, False, "**Did not hold**: everything is better than nothing: "),
        (10.5, False, "more than two sd, but less than 10.5."),
    ],
)
def test_a_claim_may_ask_for_a_margin(claims: ModuleType, tmp_path: Path, margin: float, held: bool, why: str) -> None:
    words = '"better": ("full", "top1")'
    path = tmp_path / "papers" / "made_up.py"
    path.write_text(PAPER.replace(words, f'"margin": {margin}, {words}', 1))
    first, second, _ = run(claims, tmp_path)["claims"]
    assert first["margin"] == margin and first["held"] is held and "margin" not in second
    assert why in (tmp_path / "out" / "made_up.md").read_text()


@pytest.mark.parametrize(
    ("within", "held", "why"),
    [(9, True, ": not more than 9 below in the mean"), (8.5, False, ": more than 8.5 below in the mean")],
)
def test_a_claim_may_ask_to_be_near(claims: ModuleType, tmp_path: Path, within: float, held: bool, why: str) -> None:
    words = '"better": ("half of it", "top1")'
    (tmp_path / "papers" / "made_up.py").write_text(PAPER.replace(words, f'"within": {within}, {words}', 1))
    second = run(claims, tmp_path)["claims"][1]
    assert second["within"] == within and second["held"] is held
    page = (tmp_path / "out" / "made_up.md").read_text()
    assert why in page and f"**{'Held' if held else 'Did not hold'}**: half is better than everything" in page


def test_a_stopped_run_goes_on_and_changed_code_starts_anew(claims: ModuleType, tmp_path: Path) -> None:
    work = tmp_path / "work" / "made_up"
    work.mkdir(parents=True)
    (work / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run(claims, tmp_path, "--seeds", "1")
    assert not (tmp_path / "out" / "made_up.json").exists()
    (work / "stop").unlink()
    (work / "half_of_it_seed0.json").write_text('{"digest": "')  # cut short
    run(claims, tmp_path, "--seeds", "1")
    assert (work / "runs").read_text() == "none,0;full,0;full,0;half of it,0;", "'none' was kept"
    run(claims, tmp_path, "--seeds", "1")
    assert (work / "prepared").read_text() == "xx", "nothing to measure, nothing to prepare"
    assert json.loads((tmp_path / "out" / "made_up.json").read_text())["clock"] is None, "kept numbers have no clock"
    (tmp_path / "papers" / "helping.py").write_text("offset = 1.0  # another\n")
    run(claims, tmp_path, "--seeds", "1", "--arms", "none")
    assert (work / "runs").read_text().endswith(";none,0;")


def test_several_processes_give_the_same_numbers(claims: ModuleType, tmp_path: Path) -> None:
    """As a command, since the processes import it; and one arm's fault ends the run with its sentence."""
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT / 'tools')!r})\nimport claims\n"
        "if __name__ == '__main__':\n    claims.FOLDER = Path(sys.argv[1])\n"
        "    claims.cli_main(lambda: claims.main(sys.argv[2:]))\n"
    )

    def command(*options: str) -> subprocess.CompletedProcess:
        words = [sys.executable, str(driver), str(tmp_path / "papers"), "made_up", "--jobs", "2", "--work", str(tmp_path / "two")]
        return subprocess.run([*words, "--out", str(tmp_path / "out"), *options], capture_output=True, text=True, timeout=300)

    found = command("--seeds", "2")
    assert found.returncode == 0, found.stderr
    together = json.loads((tmp_path / "out" / "made_up.json").read_text())
    alone = run(claims, tmp_path, "--seeds", "2")
    assert together["arms"] == alone["arms"] and together["seeds"] == [0, 1] and together["clock"] is not None
    assert "2 processes of" in together["machine"]
    assert not list((tmp_path / "two" / "made_up").glob("process_*")), "folders of single processes are gone"
    (tmp_path / "papers" / "helping.py").write_text("import time\noffset = 1.0\n")
    sleeping = PAPER.replace("    value =", "    import time\n    time.sleep(0 if arm == 'full' else 60)\n    value =")
    (tmp_path / "papers" / "made_up.py").write_text(sleeping.replace('"AP": 7.0', '"unknown": 7.0'))
    start = time.monotonic()
    found = command("--seeds", "9")
    assert found.returncode == 2 and "'unknown'" in found.stderr and "Traceback" not in found.stderr
    assert time.monotonic() - start < 55, "the fault did not wait for the other arms"


def test_one_seed_a_quick_run_and_the_page_alone(claims: ModuleType, tmp_path: Path) -> None:
    result = run(claims, tmp_path, "--quick", "--seeds", "1", "--arms", "none,full")
    assert result["quick"] and result["arms"]["none"]["top1"] == {"mean": 1.0, "sd": 0.0, "values": [1.0]}
    assert [c["held"] for c in result["claims"]] == [True, None, False]
    page = tmp_path / "out" / "made_up.md"
    assert "A quick run" in page.read_text() and "**Not measured**: half is better" in page.read_text()
    before = page.read_text()
    page.unlink()
    assert run(claims, tmp_path, "--render") == result and page.read_text() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["made_upp"], "Did you mean 'made_up'"),
        (["made_up", "--seeds", "0"], "--seeds 0"),
        (["made_up", "--arms", "ful"], "Did you mean 'full'"),
        (["made_up", "--sed", "3"], "--sed"),
        (["made_up", "--render"], "run without --render first"),
    ],
)
def test_wrong_words_are_named(claims: ModuleType, tmp_path: Path, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        claims.main([*argv, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def prepare", "def prepared", "lacks prepare"),
        ('"worse": ("none", "AP")', '"worse": ("nun", "AP")', r"speaks of \(nun, AP\)"),
        ('{"top1": value}', '{"top5": value}', "gave \\['top5'\\]"),
    ],
)
def test_a_paper_must_keep_the_contract(claims: ModuleType, tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "papers" / "made_up.py").write_text(PAPER.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        run(claims, tmp_path)


def test_a_paper_does_not_hide_the_package_of_its_name(claims: ModuleType, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "installed" / "made_up").mkdir(parents=True)
    (tmp_path / "installed" / "made_up" / "__init__.py").write_text("start = 3.0\n")
    (tmp_path / "installed" / "made_up" / "parts.py").write_text("step = 4.0\n")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    more = "import made_up\nfrom made_up.parts import step\nassert (made_up.start, step) == (3.0, 4.0)\n"
    (tmp_path / "papers" / "made_up.py").write_text(PAPER + more)
    try:
        assert run(claims, tmp_path, "--seeds", "1")["seeds"] == [0]
    finally:
        for name in ("made_up", "made_up.parts"):
            sys.modules.pop(name, None)


def test_every_shipped_paper_keeps_the_contract(claims: ModuleType, monkeypatch) -> None:
    monkeypatch.setattr(claims, "FOLDER", ROOT / "benchmarks" / "claims")
    for name in claims.papers():
        paper = claims.load_paper(name)
        assert paper.TITLE and paper.SETTING.strip() and len(claims.digest_of(paper)) == 16
