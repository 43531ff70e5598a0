"""Promise 10: the web demo binds to loopback, caps bytes, pixels, prompts and its queue, and says a sentence, never a traceback.

First the parts that know nothing of the web, then what gradio is told, and where gradio is installed a server that runs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import logging
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from openvocab import Predictor
from openvocab.errors import InputError, MissingDependencyError, OpenVocabError, PromptError, VocabularyError
from tests.faults.traps import run_tool
from tests.openvocab.colours import ColourDetector, paint

TOOL = Path(__file__).resolve().parents[2] / "tools" / "web_demo.py"
RED = (20, 30, 70, 90)


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_demo_under_test", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


web = load_tool()
LIMITS = web.Limits(bytes=60_000, pixels=30_000, prompt=60, wait=2)


def predictor() -> Predictor:
    resize = T.ResizeShortestEdge(short_edge_length=96, max_size=160)
    return Predictor(model=ColourDetector(), augmentations=[resize], score_threshold=0.05)


def picture(size: tuple[int, int] = (120, 160), kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(paint(size, red=RED)).save(buffer, kind)
    return buffer.getvalue()


CUT = picture(kind="jpeg")[:900]


def bomb(side: int) -> bytes:
    """A png that says it has side x side pixels, and has none: decoding it fails, reading its header does not."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 1) + b"IDAT" + b"\0" + struct.pack(">I", zlib.crc32(b"IDAT\0"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + data


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., tuple]:
    """Ask about the bytes of a file, as if it had been uploaded."""
    folder = tmp_path / "uploads"
    folder.mkdir()

    def ask(content: bytes = picture(), text: object = "red.", kind: object = "names", threshold: object = 0.3) -> tuple:  # noqa: B008
        (folder / "a.png").write_bytes(content)
        return web.Desk(predictor(), folder, LIMITS).answer({"path": str(folder / "a.png")}, text, kind, threshold)

    return ask


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_a_picture_and_names(desk: Callable) -> None:
    drawn, table = desk()
    assert drawn.size == (160, 120) and table.splitlines()[1].split()[:2] == ["red", "0.900"]
    assert "a red box" in desk(text="a red box on the floor", kind="a sentence")[1]
    assert desk(threshold=0.95)[1] == "nothing found"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"content": b"\0" * 60_001}, InputError, "60001 bytes, the limit is 60000"),
        ({"content": bomb(174)}, InputError, "174 x 174 pixels, the limit is 30000"),
        ({"content": bomb(60_000)}, InputError, "no picture that can be read"),  # Pillow refuses it from the header
        ({"content": b"no picture"}, InputError, "no picture that can be read"),
        ({"content": CUT}, InputError, "damaged or cut short"),
        ({"text": ""}, VocabularyError, "prompt is empty"),
        ({"text": None}, VocabularyError, "prompt is empty"),
        ({"text": "x" * 61}, PromptError, "61 characters, the limit is 60"),
        ({"text": "red. red"}, VocabularyError, "twice"),
        ({"text": "of the", "kind": "a sentence"}, PromptError, "no noun phrase"),
        ({"kind": "code"}, PromptError, "either names or a sentence"),
        ({"threshold": "0.3"}, InputError, "from 0 to 1"),
        ({"threshold": float("nan")}, InputError, "from 0 to 1"),
    ],
)
def test_what_is_over_a_limit_or_no_question(desk: Callable, changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        desk(**changes)


@pytest.mark.parametrize("value", [None, "a.png", {}, {"path": "/etc/passwd"}, {"path": "../secret.png"}, {"path": "\0"}])
def test_only_uploads_are_opened(tmp_path: Path, value: object) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (tmp_path / "secret.png").write_bytes(picture())
    (uploads / "link.png").symlink_to(tmp_path / "secret.png")
    for sent in (value, {"path": str(uploads / "link.png")}):
        with pytest.raises(InputError, match="drop (one first|it again)"):
            web.Desk(predictor(), uploads, LIMITS).answer(sent, "red.", "names", 0.3)


def test_an_error_is_a_sentence_without_places_and_markup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = web.Desk(predictor(), tmp_path, LIMITS)
    known = desk.sentence(InputError(f"the picture {tmp_path}/0af3/<b>.png\nis damaged"))
    assert known == "the picture &lt;b&gt;.png is damaged"
    with caplog.at_level(logging.ERROR):
        unknown = desk.sentence(RuntimeError("secret: /etc/shadow"))
    assert unknown == web.MISTAKE and "secret" not in unknown
    assert "secret: /etc/shadow" in caplog.text  # for whoever runs it


# ---- the layer before gradio -------------------------------------------------------------------------------------------


def through_guard(path: str, chunks: list[bytes], uploads: Path, method: str = "POST") -> tuple[int, bytes]:
    """Send a request through `Guard`; return the status and what the layer behind it read (or the refusal)."""
    sent: list[dict] = []

    async def behind(scope: dict, receive: Callable, send: Callable) -> None:
        body = (await receive())["body"] if method == "POST" else b""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    messages = [{"type": "http.request", "body": c, "more_body": i < len(chunks) - 1} for i, c in enumerate(chunks)]

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(web.Guard(behind, uploads=uploads, limits=LIMITS)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_requests_have_a_size(tmp_path: Path) -> None:
    assert through_guard("/upload", [b"x" * 50_000, b"y"], tmp_path) == (200, b"x" * 50_000 + b"y")
    status, body = through_guard("/upload", [b"x" * 50_000] * 3, tmp_path)
    assert status == 413 and b"make it smaller" in body
    assert through_guard("/queue/join", [b"1" * web.JSON_BYTES], tmp_path)[0] == 200
    assert through_guard("/queue/join", [b"1" * (web.JSON_BYTES + 1)], tmp_path)[0] == 413


def test_nothing_is_fetched_or_read_for_a_stranger(tmp_path: Path) -> None:
    files = [
        {"path": "http://169.254.169.254/x"},
        {"path": "/etc/passwd"},
        {"path": f"{tmp_path}/../x"},
        {"path": "data:image/png;base64,AA"},
        {"path": f"{tmp_path}/a", "url": "data:image/png;base64,AA"},
    ]
    for file in files:
        for data in ([file], {"deep": [[{"er": file}]]}):
            assert through_guard("/queue/join", [json.dumps(data).encode()], tmp_path)[0] == 403
    own = json.dumps([{"path": f"{tmp_path}/0a/a.png", "url": "http://127.0.0.1:1/file=x"}, "http://x"]).encode()
    assert through_guard("/queue/join", [own], tmp_path) == (200, own)
    for path in ("/gradio_api/file=http://x", "/gradio_api/file=https:/x", "/gradio_api/proxy=http://x"):
        assert through_guard(path, [b""], tmp_path, method="GET")[0] == 403
    assert through_guard("/gradio_api/file=/x.png", [b""], tmp_path, method="GET")[0] == 200


# ---- the command line --------------------------------------------------------------------------------------------------


def test_loopback_unless_asked() -> None:
    args = web.parse([])
    assert args.host == "127.0.0.1" and web.is_loopback(args.host) and web.is_loopback("::1") and web.is_loopback("localhost")
    assert not web.is_loopback("0.0.0.0") and not web.is_loopback("example.com")
    assert web.Limits() == web.Limits(*(getattr(args, f"max_{n}") for n in ("bytes", "pixels", "prompt", "wait")))


@pytest.mark.parametrize("argv", [["--port", "0"], ["--port", "x"], ["--max-wait", "0"], ["--share"]])
def test_bad_options_are_one_sentence(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run_tool("web_demo", *argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and argv[0] in error and "\n" not in error and "Traceback" not in error


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"\[web\]"):
        web.import_gradio()


# ---- what gradio is told ---------------------------------------------------------------------------------------------


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MagicMock:
    """A gradio that notes what it is told."""
    fake = MagicMock()
    fake.Error = type("Error", (Exception,), {"__init__": lambda self, text, **_: Exception.__init__(self, text)})
    fake.utils.get_upload_folder.return_value = str(tmp_path)
    monkeypatch.setitem(sys.modules, "gradio", fake)
    monkeypatch.setitem(sys.modules, "starlette.middleware", MagicMock(Middleware=lambda layer, **options: (layer, options)))
    return fake


def test_gradio_is_told_the_limits(gradio: MagicMock, tmp_path: Path) -> None:
    page = web.serve(predictor(), host="127.0.0.1", port=7000, limits=LIMITS)
    told = page.launch.call_args.kwargs
    assert told["server_name"] == "127.0.0.1" and told["server_port"] == 7000 and told["share"] is False
    assert told["max_file_size"] == LIMITS.bytes and told["allowed_paths"] == []
    assert told["app_kwargs"] == {"middleware": [(web.Guard, {"uploads": tmp_path, "limits": LIMITS})]}
    assert page.queue.call_args.kwargs == {"max_size": LIMITS.wait, "default_concurrency_limit": 1, "api_open": False}
    assert gradio.Blocks.call_args.kwargs["analytics_enabled"] is False


def test_whatever_happens_becomes_an_error_of_gradio(gradio: MagicMock, tmp_path: Path) -> None:
    def broken(image: object, words: object) -> None:
        raise MemoryError("secret: /etc/shadow")

    web.serve(broken, host="127.0.0.1", port=7000, limits=LIMITS)
    click = gradio.Button.return_value.click
    assert click.call_args.kwargs["preprocess"] is False
    (tmp_path / "a.png").write_bytes(picture())
    for text, sentence in (("red.", web.MISTAKE), ("", "prompt is empty")):
        with pytest.raises(gradio.Error, match=sentence) as caught:
            click.call_args.args[0]({"path": str(tmp_path / "a.png")}, text, "names", 0.3)
        assert "secret" not in str(caught.value)


# ---- a server that runs ------------------------------------------------------------------------------------------------


class Held:
    """A predictor that waits for `go`, and fails when it is asked for "boom"."""

    def __init__(self) -> None:
        self.inner, self.go, self.asked = predictor(), threading.Event(), threading.Semaphore(0)
        self.model = self.inner.model
        self.go.set()

    def __call__(self, image: object, words: object) -> object:
        self.asked.release()
        assert self.go.wait(60)
        if "boom" in words.names:
            raise RuntimeError("secret: /etc/shadow")
        return self.inner(image, words)


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


@pytest.fixture(scope="module")
def client(held: Held, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    pytest.importorskip("gradio", reason="gradio is in the extra `web`, which lowers Pillow: pip install gradio")
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")  # what gradio would heed if it were not told
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        page = web.serve(held, host="127.0.0.1", port=port, limits=LIMITS)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/gradio_api", timeout=60, trust_env=False) as http:
            yield http
        page.close(verbose=False)


def upload(client: object, content: bytes, name: str = "a.png") -> dict:
    answer = client.post("/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def join(client: object, *data: object) -> object:
    return client.post("/call/detect", json={"data": list(data)})


def result(client: object, answer: object) -> tuple[str, object]:
    """Wait for a joined request; return the kind of its last event and its data."""
    text = client.get(f"/call/detect/{answer.json()['event_id']}").text
    event, data = [line.partition(": ")[2] for line in text.strip().splitlines()[-2:]]
    return event, json.loads(data)


def refused(client: object, *data: object) -> str:
    """Ask for something that cannot be done; return the sentence."""
    event, content = result(client, join(client, *data))
    assert event == "error" and "Traceback" not in content["error"]
    return content["error"]


@pytest.mark.slow
def test_the_page_answers(client: object) -> None:
    event, (drawn, table) = result(client, join(client, upload(client, picture()), "red.", "names", 0.3))
    assert event == "complete" and table.splitlines()[1].split()[:2] == ["red", "0.900"]
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/file={drawn['path']}").content)))
    assert shown.shape == (120, 160, 3)


@pytest.mark.slow
def test_the_page_refuses_in_sentences(client: object, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    good = upload(client, picture())
    assert refused(client, upload(client, b"no picture"), "red.", "names", 0.3).startswith("this file is no picture")
    assert "is damaged or cut short" in refused(client, upload(client, CUT), "red.", "names", 0.3)
    assert "30000" in refused(client, upload(client, bomb(174)), "red.", "names", 0.3)
    assert "prompt is empty" in refused(client, good, "", "names", 0.3)
    assert "limit is 60" in refused(client, good, "x" * 61, "names", 0.3)
    capfd.readouterr()
    assert refused(client, good, "boom", "names", 0.3) == web.MISTAKE
    answers = [
        client.post("/upload", files={"files": ("a.png", b"\0" * 200_000)}),
        join(client, {**good, "path": "/etc/passwd"}, "red.", "names", 0.3),
        client.get(f"/file={TOOL}"),
        client.get("/file=/etc/passwd"),
        client.get("/file=http://127.0.0.1/x"),
    ]
    assert [a.status_code for a in answers] == [413, 403, 403, 403, 403]
    assert all("Traceback" not in a.text and a.json()["detail"] for a in answers)


@pytest.mark.slow
def test_it_listens_on_loopback_alone(client: object) -> None:
    port = client.base_url.port
    others = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1", "127.0.1.1"}
    for address in ("127.0.0.2", *others):  # the first is this machine too, and answers where all addresses are bound
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, port)) != 0, address


@pytest.mark.slow
def test_the_queue_is_short(client: object, held: Held) -> None:
    good = upload(client, picture())
    while held.asked.acquire(blocking=False):
        pass
    held.go.clear()
    try:
        running = join(client, good, "red.", "names", 0.3)
        assert held.asked.acquire(timeout=60)  # it is being worked on and waits no longer
        waiting = [join(client, good, "red.", "names", 0.3) for _ in range(LIMITS.wait)]
        late = join(client, good, "red.", "names", 0.3)
        assert late.status_code == 503 and "full" in late.text and "Traceback" not in late.text
    finally:
        held.go.set()
    assert [result(client, answer)[0] for answer in (running, *waiting)] == ["complete"] * (1 + LIMITS.wait)


def test_errors_of_the_desk_are_ours(desk: Callable) -> None:
    """Each refusal is one of our errors, so that nothing foreseen reads as a mistake of the server."""
    for changes in ({"content": b"x"}, {"text": ""}, {"kind": None}, {"threshold": None}):
        with pytest.raises(OpenVocabError):
            desk(**changes)
