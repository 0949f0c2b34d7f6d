"""`ServeOptions`: what is served, where, and how much of it one may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from lacos_st.errors import UserError
from lacos_st.options import option, required


@dataclass(frozen=True)
class ServeOptions:
    """Options of `lacos-st serve`; the metadata of each holds its help."""

    model: str = required("a folder, hub name, GGUF file or embedded model (bloom-nano)")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: every network that this machine is on")
    port: int = option(8000, "port to listen on; 0: any that is free")
    name: str | None = option(None, "of the model in the API [the last part of MODEL]")
    device: str | None = option(None, "torch device, such as cpu or cuda")
    prompt: str | None = option(None, "text put before each sentence")
    prompt_name: str | None = option(None, "the same, by its name in the model")
    batch_size: int = option(64, "sentences that the model encodes at a time")
    max_batch: int = option(1024, "texts of waiting requests that are handed to the model together")
    max_texts: int = option(2048, "texts in one request")
    max_characters: int = option(100_000, "of one text; the model cuts it at its own limit of tokens")
    max_body_mib: int = option(32, "size of one request")
    max_waiting: int = option(16384, "texts that may wait; what comes beyond is told to try again (429)")
    api_key_env: str | None = option(None, "environment variable that holds the key clients have to send [no key]")

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_batch", "max_texts", "max_characters", "max_body_mib", "max_waiting"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 1 or more")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port is {self.port}: expected 0 to 65535")
