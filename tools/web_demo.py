"""Ask the detector from a browser: drop a picture, write names, look at the boxes.

    python tools/web_demo.py                        # http://127.0.0.1:7860, for this machine alone
    python tools/web_demo.py --model my_config.py --weights w.safetensors --port 8000

It listens on the loopback address unless --host says otherwise. Bytes, pixels and prompts have limits, and so has the queue;
whatever goes wrong is told in one sentence. Nothing is reported to anyone, and pictures are taken as uploads only, never from an
address. Needs the extra `web`.
"""

from __future__ import annotations

import argparse
import html
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvocab.errors import ConfigError, InputError, OpenVocabError, PromptError, ToolParser, VocabularyError, cli_main, missing

if TYPE_CHECKING:
    from PIL.Image import Image

    from openvocab import Detections

logger = logging.getLogger("openvocab.web_demo")
KINDS = ("names", "a sentence")
OVERLAP, LEAST_SCORE = 0.6, 0.05
JSON_BYTES, FRAME_BYTES = 65_536, 16_384  # of a request without a picture; of what wraps an uploaded one
FOREIGN = "a picture must be uploaded; it is taken neither from an address nor from a folder of the server"
MISTAKE = "something went wrong on the server, and its log says what; another picture or prompt may do"


@dataclass(frozen=True)
class Limits:
    """The most that a request may bring: `bytes` and `pixels` of a picture, characters of a `prompt`; and how many may `wait`."""

    bytes: int = 10_000_000
    pixels: int = 25_000_000
    prompt: int = 300
    wait: int = 8


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown options and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a name of the zoo ('default', 'bridge'), or a config")
    parser.add_argument("--weights", metavar="FILE", help="a weight file instead of the model's own")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets everybody in the network ask")
    parser.add_argument("--port", type=int, default=7860)
    for name, what in (("bytes", "bytes of a picture"), ("pixels", "pixels of a picture"), ("prompt", "characters of a prompt")):
        parser.add_argument(f"--max-{name}", type=int, default=getattr(Limits, name), help=f"most {what}")
    parser.add_argument("--max-wait", type=int, default=Limits.wait, help="most requests that wait for their turn")
    args = parser.parse_args(argv)
    if not 1 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port} must lie between 1 and 65535")
    for name in ("bytes", "pixels", "prompt", "wait"):
        if getattr(args, f"max_{name}") < 1:
            raise ConfigError(f"--max-{name} {getattr(args, f'max_{name}')} must be at least 1")
    return args


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def below(folder: Path, name: object) -> Path | None:
    """Return the real path of a file that must lie below `folder`; None if it does not."""
    try:
        path = Path(str(name)).resolve()
    except (OSError, ValueError):
        return None
    return path if path.is_relative_to(folder.resolve()) else None


# ---- a question -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """Takes what a stranger sends, checks it, and asks the predictor. Knows nothing of the web.

    Attributes:
        predictor: what `load_predictor` returns.
        uploads: the folder in which a picture must lie.
        limits: of a request.
    """

    predictor: Callable[..., Detections]
    uploads: Path
    limits: Limits = Limits()

    def answer(self, picture: object, text: object, kind: object, threshold: object) -> tuple[Image, str]:
        """Detect; return the annotated picture and the table. All arguments are as they came over the wire.

        Raises:
            OpenVocabError: with a sentence for whoever asked.
        """
        path = self._picture(picture)
        words = self._words(text, kind)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise InputError("the least score must be a number from 0 to 1")
        found = self.predictor(path, words)
        if hasattr(self.predictor, "model"):  # the bridge gives one box several names
            found = found.distinct(OVERLAP).filter(float(threshold))
        return found.draw(), found.table()

    def _picture(self, value: object) -> Path:
        from openvocab.data.image import stored_size

        name = value.get("path") if isinstance(value, dict) else None
        if not name:
            raise InputError("there is no picture yet: drop one first")
        path = below(self.uploads, name)
        if path is None or not path.is_file():
            raise InputError("this picture was not uploaded: drop it again")
        if path.stat().st_size > self.limits.bytes:
            raise InputError(f"the picture has {path.stat().st_size} bytes, the limit is {self.limits.bytes}; make it smaller")
        try:
            width, height = stored_size(path)
        except InputError as error:
            raise InputError("this file is no picture that can be read: try a jpg or png") from error
        if width * height > self.limits.pixels:
            raise InputError(f"the picture has {width} x {height} pixels, the limit is {self.limits.pixels}; make it smaller")
        return path

    def _words(self, text: object, kind: object) -> Any:
        from openvocab import Vocabulary
        from openvocab.prompting import noun_phrases

        if not isinstance(text, str) or not text.strip():
            raise VocabularyError("the prompt is empty: write names such as 'cat. remote control.'")
        if len(text) > self.limits.prompt:
            raise PromptError(f"the prompt has {len(text)} characters, the limit is {self.limits.prompt}; shorten it")
        if kind not in KINDS:
            raise PromptError(f"a prompt is either {' or '.join(KINDS)}")
        return noun_phrases(text) if kind == KINDS[1] else Vocabulary.from_caption(text)

    def sentence(self, error: Exception) -> str:
        """Return what whoever asked may read about an error; one nobody foresaw goes to the log, whole."""
        if isinstance(error, OpenVocabError):
            text = re.sub(rf"{re.escape(str(self.uploads.resolve()))}/(\w+/)?", "", " ".join(str(error).split()))
            return html.escape(text, quote=False)  # gradio shows it as html
        logger.error("a request failed", exc_info=error)
        return MISTAKE


# ---- the web --------------------------------------------------------------------------------------------------------


class Guard:
    """ASGI layer before gradio: no request is larger than it must be, and none names a picture that was not uploaded.

    Args:
        app: the next layer.
        uploads: the folder in which pictures must lie.
        limits: of a request.
    """

    def __init__(self, app: Callable[..., Awaitable], *, uploads: Path, limits: Limits) -> None:
        self.app, self.uploads, self.limits = app, uploads, limits

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if any(word in scope["path"] for word in ("file=http", "file/http", "proxy=")):
            return await _refuse(send, 403, FOREIGN)
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        upload = scope["path"].endswith("/upload")
        most = self.limits.bytes + FRAME_BYTES if upload else JSON_BYTES
        body = await _read(receive, most)
        if body is None:
            return await _refuse(send, 413, f"the request has more than {most} bytes; make it smaller")
        if not upload and names_foreign_file(body, self.uploads):
            return await _refuse(send, 403, FOREIGN)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> dict:
            return waiting.pop() if waiting else await receive()

        return await self.app(scope, replay, send)


async def _read(receive: Callable, most: int) -> bytes | None:
    """Read a request's body; None if it has more than `most` bytes."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            return None
    return body


async def _refuse(send: Callable, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def names_foreign_file(body: bytes, uploads: Path) -> bool:
    """Whether a json request names a file outside `uploads`, or by an address, which gradio would fetch, or as a data url."""
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # gradio refuses it itself
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if str(value.get("url") or "").startswith("data:"):
                return True
            if value.get("path") and below(uploads, value["path"]) is None:
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def build_page(gradio: Any, desk: Desk) -> Any:
    """Return the page as gradio's `Blocks`, its queue limited."""

    def ask(*values: object) -> tuple[Image, str]:
        try:
            return desk.answer(*values)
        except Exception as error:
            raise gradio.Error(desk.sentence(error), print_exception=False) from error

    with gradio.Blocks(title="openvocab", analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gradio.Markdown("Drop a picture, name things in your own words, and press Detect.")
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(label="picture", type="filepath", image_mode=None, sources=["upload", "clipboard"])
                text = gradio.Textbox(label="prompt", placeholder="cat. remote control.", max_length=desk.limits.prompt)
                kind = gradio.Radio(KINDS, value=KINDS[0], label="the prompt is")
                threshold = gradio.Slider(0, 1, value=0.3, step=0.01, label="least score")
                button = gradio.Button("Detect", variant="primary")
            with gradio.Column():
                drawn = gradio.Image(label="found", format="jpeg", interactive=False)
                table = gradio.Textbox(label="boxes in pixels", lines=8, interactive=False)
        # preprocess=False: gradio hands over what came as it came, so that nothing opens a picture before it is checked
        event = {"inputs": [picture, text, kind, threshold], "outputs": [drawn, table], "preprocess": False, "api_name": "detect"}
        button.click(ask, **event)
    page.queue(max_size=desk.limits.wait, default_concurrency_limit=1, api_open=False)
    return page


def import_gradio() -> Any:
    """Return gradio, told to report nothing.

    Raises:
        MissingDependencyError: without it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise missing("gradio", "web") from error
    return gradio


def serve(predictor: Callable[..., Detections], *, host: str, port: int, limits: Limits) -> Any:
    """Open the page in a thread; return gradio's `Blocks`, for the caller to wait for or to close.

    Raises:
        MissingDependencyError: without gradio.
        OSError: if the port is taken.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware

    uploads = Path(gradio.utils.get_upload_folder())
    page = build_page(gradio, Desk(predictor, uploads, limits))
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=limits.bytes,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guard, uploads=uploads, limits=limits)]},
        theme=gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"]),  # no fonts from elsewhere
    )
    return page


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    import_gradio()
    from openvocab import load_predictor

    limits = Limits(bytes=args.max_bytes, pixels=args.max_pixels, prompt=args.max_prompt, wait=args.max_wait)
    least = None if args.model == "bridge" else LEAST_SCORE
    predictor = load_predictor(args.model, device=args.device, weights=args.weights, score_threshold=least)
    if not is_loopback(args.host):
        print(f"warning: everybody who can reach {args.host} can use this page; there is no password", file=sys.stderr)
    page = serve(predictor, host=args.host, port=args.port, limits=limits)
    print(f"http://{args.host}:{args.port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
