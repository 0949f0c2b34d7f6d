"""The encoder that the options of a run name."""

from __future__ import annotations

from lacos_st.corpus.options import EncodeOptions
from lacos_st.models import check_device
from lacos_st.text_encoder import TextEncoder


def load_encoder(options: EncodeOptions) -> TextEncoder:
    """The model on the first of the devices.

    Raises:
        UserError: it cannot be loaded, one of the devices cannot be used here, or it does not fit the options.
    """
    for name in options.device:
        check_device(name)
    return TextEncoder.load(
        options.model,
        device=options.devices[0],
        batch_size=options.batch_size,
        normalize=options.normalize,
        truncate_dim=options.truncate_dim,
        prompt=options.prompt,
        prompt_name=options.prompt_name,
    )
