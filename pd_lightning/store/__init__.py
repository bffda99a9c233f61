"""The format of data folders (token blocks and logit stores): manifest, codec, writing, reading, inspection.

Nothing is imported here, so that `pd_lightning.store.manifest` stays cheap to import.
"""
