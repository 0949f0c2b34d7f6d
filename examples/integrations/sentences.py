"""What the examples search: sentences in three languages, four to a subject; and the model to try."""

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
