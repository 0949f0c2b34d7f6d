"""The sources of the documentation: pages, what builds them into a site, and what draws their figures."""
