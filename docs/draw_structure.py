"""Draw docs/questions/structure.png (embed, cluster) and depend.png (depend, dimension), from bundled data alone.

    python docs/draw_structure.py

Digits by a vae and by a diffusion, 13 measurements of wines by a mixture; every picture is `answer.figure()`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_wine

import pofx
from pofx.drawing.style import png
from pofx.tasks import embed

HERE = Path(__file__).parent / "questions"


def main() -> None:
    """Fit, ask, draw."""
    data, labels = pofx.open_data("digits", seed=0), pofx.open_data("digits", seed=0, given="label").given["label"]
    vae = pofx.fit(data, "vae", budget="1500 steps", seed=0, threads=1, progress=False)
    some = data.x[:800]
    coded = embed.figure(pofx.embed(vae, some), labels[:800])
    save("structure", coded, pofx.cluster(vae, some).figure())
    wines = load_wine(as_frame=True).data.rename(columns={"od280/od315_of_diluted_wines": "od280/od315"})
    mixture = pofx.fit(wines, "mixture", budget="200 steps", seed=0, threads=1, progress=False)
    diffusion = pofx.fit(data, "diffusion", budget="600 steps", seed=0, threads=1, progress=False)
    save("depend", pofx.depend(mixture).figure(), pofx.dimension(diffusion, data.part("test").x[:150]).figure())


def save(name: str, *figures: Any) -> None:
    """Figures one below the other."""
    parts = [Image.open(io.BytesIO(png(figure, 90))).convert("RGB") for figure in figures]
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts) + 12 * len(parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, ((whole.width - part.width) // 2, top))
        top += part.height + 12
    whole.save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
