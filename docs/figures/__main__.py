"""Draw all of them."""

from __future__ import annotations

from docs.figures.draw import FOLDER, draw

if __name__ == "__main__":
    draw(FOLDER)
