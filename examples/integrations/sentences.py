"""What the examples search: the reader's own sentences, or a few in three languages, four a subject; and the model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lacos_st

SENTENCES = [
    "A man is playing the guitar on stage.",
    "Un hombre toca la guitarra en el escenario.",
    "Un homme joue de la guitare sur scène.",
    "A musician plays a song for the crowd.",
    "The dog runs along the beach.",
    "El perro corre por la playa.",
    "Le chien court sur la plage.",
    "A puppy is playing in the sand.",
    "The cook is cutting vegetables in the kitchen.",
    "El cocinero corta verduras en la cocina.",
    "Le cuisinier coupe des légumes dans la cuisine.",
    "A woman prepares dinner.",
]
SUBJECTS = 3
QUERY = "Someone plays music."


def model_folder() -> str:
    """The folder or name in the command line; without one, the embedded base saved in a new folder."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    folder = Path(tempfile.mkdtemp(prefix="lacos-example-"))
    lacos_st.encoder("bloom-nano", device="cpu").save_pretrained(str(folder))
    return str(folder)


def asked() -> tuple[list[str], str]:
    """Sentences and a query: lines of the file that the command line names second, and its third word."""
    sentences, query = SENTENCES, QUERY
    if len(sys.argv) > 2:
        if not Path(sys.argv[2]).is_file():
            sys.exit(f"{sys.argv[2]} is no file: expected one of text, a sentence a line")
        lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
        sentences = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if len(sentences) < 3:
            sys.exit(f"{sys.argv[2]} has {len(sentences)} sentences: expected three or more, one a line")
    if len(sys.argv) > 3:
        query = sys.argv[3]
    return sentences, query
