"""Make docs/images/detections.jpg: the default model on two sample photos and on two pictures of republishable sets.

    python tools/readme_picture.py

The aquarium picture is by Roboflow (CC BY 4.0), the blood cells are from BCCD (MIT); both are validation pictures.
"""

from __future__ import annotations

from pathlib import Path

from openvocab.errors import cli_main

WIDTH, HEIGHT = 480, 360


def main() -> int:
    """Entry point."""
    import skimage
    from PIL import Image

    from openvocab import load_predictor
    from openvocab.data import get_records, get_vocabulary

    samples = Path(skimage.__file__).parent / "data"
    jobs = [(samples / "chelsea.png", "cat."), (samples / "motorcycle_left.png", "motorcycle.")]
    for name, index in (("bccd_val", 3), ("aquarium_val", 20)):
        jobs.append((Path(get_records(name)[index]["file_name"]), get_vocabulary(name)))
    predictor = load_predictor("default", device="cpu", score_threshold=0.4)
    sheet = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), "white")
    for i, (path, words) in enumerate(jobs):
        found = predictor(path, words)
        drawn = found.draw()
        drawn.thumbnail((WIDTH - 4, HEIGHT - 4))
        sheet.paste(drawn, (i % 2 * WIDTH, i // 2 * HEIGHT))
        print(f"{path.name}\n{found}")
    sheet.save(Path(__file__).resolve().parents[1] / "docs" / "images" / "detections.jpg", quality=88)
    return 0


if __name__ == "__main__":
    cli_main(main)
