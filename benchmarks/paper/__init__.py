"""The experiments of LACoS-BLOOM (arXiv 2305.06404) as commands, for any list of bases: see README.md here."""
