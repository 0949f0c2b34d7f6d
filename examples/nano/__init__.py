"""Pretraining of the two small models that ship with lacos_st: see ``examples/pretrain_nano.py``."""
