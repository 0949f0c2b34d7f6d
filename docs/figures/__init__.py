"""The figures of the documentation, drawn from what the package itself computes.

    python -m docs.figures    # writes docs/assets/figures/*.svg

The files lie in the repository, where pages are read without a build; `tests/test_docs_figures.py` holds that they are
what this draws.
"""
