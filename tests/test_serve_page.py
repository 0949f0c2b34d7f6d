"""The page to try a model, in headless Chromium: it works, shows errors, and asks nothing of other machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "lacos_st[serve]"')
pytest.importorskip("openai", reason="openai is not installed: pip install openai")

from test_serve import OPTIONS, TEXTS, Server, encoder  # noqa: E402, F401

from lacos_st.serve.app import create_app  # noqa: E402
from lacos_st.text_encoder import TextEncoder  # noqa: E402


def test_the_page_compares_sentences(browser: Any, encoder: TextEncoder) -> None:  # noqa: F811
    server = Server(create_app(encoder, OPTIONS))
    home = f"http://127.0.0.1:{server.port}/"
    page = browser.new_page(viewport={"width": 390, "height": 800})  # a phone's
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(home)
        page.wait_for_function("document.getElementById('model').textContent.includes('256 dimensions')")
        page.fill("#texts", "\n".join([*TEXTS, "", "<b>not bold</b>"]))
        page.click("#go")
        page.wait_for_selector("tbody tr:nth-child(5)")
        shown = page.eval_on_selector_all(
            "tbody tr", "rows => rows.map(row => [...row.querySelectorAll('td')].map(cell => +cell.textContent))"
        )
        vectors = encoder.encode([*TEXTS, "<b>not bold</b>"])
        wanted = encoder.model.similarity(vectors, vectors).numpy()
        np.testing.assert_allclose(shown, wanted, atol=6e-4)
        assert page.inner_text("tbody tr:nth-child(5) th").endswith("<b>not bold</b>")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone scrolls sideways"
        assert errors == []
        page.fill("#texts", "y" * 501)
        page.click("#go")
        page.wait_for_function("document.getElementById('error').textContent.includes('501 characters')")
        assert all(url.startswith((home, "data:")) for url in asked), asked
    finally:
        page.close()
        server.stop()
