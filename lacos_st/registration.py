"""What importing the package does: its modules and its format registered, its public names here.

transformers learns the 8-bit format when `quantizer` is imported, sentence-transformers the modules at the end of this
file. Both would load a saved model wrongly or not at all without it. What is imported and not used here is public:
`lacos_st.register` takes the names of `lacos_st.__all__` from this file.
"""

# ruff: noqa: F401

from __future__ import annotations

from lacos_st import hush

# isort: split
from sentence_transformers.base.model import BaseModel

from lacos_st.bloom import BloomEncoder
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.layer_errors import layer_errors
from lacos_st.linear import Embedding8bit, Linear8bit, dequantize_, error_report, quantize_
from lacos_st.pooling import Pooling
from lacos_st.quantizer import Blockwise8bitConfig
from lacos_st.transformer import BloomLoRA8bit, LoRA8bit
from lacos_st.upstream import register_modules

register_modules(BaseModel, (BloomLoRA8bit, LoRA8bit, Pooling))
hush.speak()
